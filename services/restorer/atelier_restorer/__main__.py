"""The command `atelier-restorer`.

torch takes seconds to import, so the command imports it late: help and bad settings do not wait.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from atelier_restorer.settings import RestorerSettings
from atelier_runtime import settings


def serve() -> int:
    """Run the stage until SIGTERM or SIGINT; return the exit code."""
    restorer_settings = settings.load(RestorerSettings)
    from atelier_restorer.servicer import RestorerStage
    from atelier_runtime.server import run_stage

    return run_stage(
        "restorer",
        restorer_settings,
        lambda worker, state: RestorerStage(restorer_settings, worker, state),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="atelier-restorer", description="Atelier's face stage.")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser(
        "serve",
        help="answer gRPC calls until SIGTERM",
        description="Answer gRPC calls until SIGTERM.",
        epilog=settings.help_text(RestorerSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serving.set_defaults(run=serve)
    chosen = parser.parse_args(arguments)
    # Read by OpenMP when torch is imported. Its threads otherwise spin while they wait for each other,
    # which takes the cores from the other processes and, where cores are shared, slows ours several times.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return int(chosen.run())


if __name__ == "__main__":
    raise SystemExit(main())
