"""The command `atelier-restorer`.

torch takes seconds to import, so each command imports it late: help, invalid flags and settings do not wait,
and a command that calls a running service never imports it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from atelier_restorer.commands import compare, detect, options, restore
from atelier_restorer.commands.console import Console
from atelier_restorer.commands.paths import PlanError
from atelier_restorer.commands.stopping import Terminated, terminated_by_signals
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import settings
from atelier_runtime.errors import AtelierError
from atelier_runtime.settings import StartupError
from atelier_runtime.torch_setup import prepare_torch

_USAGE, _FAILED, _INTERRUPTED, _SIGNALED = (
    2,
    1,
    130,
    128,
)  # exit codes; to the last, a signal's number is added


def serve(args: argparse.Namespace) -> int:
    """Run the service until SIGTERM or SIGINT; return the exit code."""
    restorer_settings = settings.load(RestorerSettings)
    from atelier_restorer.servicer import RestorerService
    from atelier_runtime.server import run_service

    return run_service("restorer", restorer_settings, partial(RestorerService, restorer_settings))


def inspect(args: argparse.Namespace) -> int:
    """Describe pictures and checkpoints; return the exit code."""
    from atelier_restorer.commands import inspect as command

    return command.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command; return the exit code."""
    args = _parser().parse_args(argv)
    prepare_torch()
    try:
        with nullcontext() if args.run is serve else terminated_by_signals():  # the service drains
            return int(args.run(args))
    except (options.UsageError, PlanError) as error:
        return _fail(str(error), _USAGE)
    except StartupError as error:
        return _fail(options.explain_startup(error, args), _FAILED)
    except AtelierError as error:
        return _fail(options.explain(error), _FAILED)
    except OSError as error:
        return _fail(str(error), _FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)
    except Terminated as stop:
        return _fail(f"interrupted by {stop}", _SIGNALED + stop.number)


def _fail(message: str, exit_code: int) -> int:
    Console().message(f"atelier-restorer: {message}")
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="atelier-restorer", description="Atelier's face restorer.")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser(
        "serve",
        help="serve gRPC until SIGTERM",
        description="Serve gRPC until SIGTERM.",
        epilog=settings.help_text(RestorerSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serving.set_defaults(run=serve)
    options.add_restore(
        commands.add_parser(
            "restore",
            help="restore the faces of an image or a folder",
            description="Restore the faces of an image, or of all images in a folder and its subfolders. "
            "Prints a JSON object for each: every face and its outcome. Inputs are never overwritten. "
            "Exit code: 0 if every image was written, 1 if one was not or a part of the folder could not be "
            "read, 2 if the flags or paths are invalid, 128 and the signal's number if interrupted.",
        ),
        restore.run,
    )
    options.add_detect(
        commands.add_parser(
            "detect",
            help="print the faces of an image",
            description="Print every face, highest confidence first, in px of the image, as "
            '{"faces": [{"box": [x1, y1, x2, y2], "landmarks": [[x, y] x 5], "confidence": c}]}.',
        ),
        detect.run,
    )
    options.add_compare(
        commands.add_parser(
            "compare",
            help="restore an image at several fidelities, to compare by eye",
            description="Restore the faces of an image at several fidelities, with a single detection and "
            "encoding. Prints a JSON object for each image written.",
        ),
        compare.run,
    )
    options.add_inspect(
        commands.add_parser(
            "inspect",
            help="show how a picture was made, or identify the network of a checkpoint file",
            description="Print a JSON object for each file. Of a picture: its recipe, AUTOMATIC1111's "
            "parameters, other texts, IPTC's source type. Of a checkpoint: its network, sizes, parameters, "
            "dtype and SHA-256. Exit code: 1 if one of them is neither.",
        ),
        inspect,
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
