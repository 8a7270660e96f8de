"""The flags of the commands, and how they become settings and requests."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import ValidationError

from atelier_restorer.client import MAX_CONCURRENCY
from atelier_restorer.commands import common_flags, tls_flags
from atelier_restorer.commands.addresses import is_gateway, is_url
from atelier_restorer.commands.shares import Share
from atelier_restorer.request import DetectRequest, FaceRule, IdentityMode, MaskKind, RestoreRequest
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import defaults, images, settings
from atelier_runtime.errors import AtelierError
from atelier_runtime.settings import BUILT_IN, StartupError

_PREFIX = str(RestorerSettings.model_config["env_prefix"])
_CHECKPOINTS = ("codeformer", "detector", "parser", "upscaler", "identity")
_IN_PROCESS = ("model_set", *_CHECKPOINTS, "device", "dtype")
"""Settings that have a flag; with --server they are up to that service."""
_CONCURRENCY_IN_PROCESS = 2  # while the networks work on one image, another is decoded or encoded
_CONCURRENCY_AT_SERVER = 4
_FLAG_OF_SETTING = {"identity": "--identity-network"}
_FLAG_OF_FIELD = {"use_upscaler": "--no-upscaler", "detect_size_px": "--detect-size"}

_ALIGNED_HELP = "IN is a single face of 512x512 px, already aligned"
_MAX_FACES_HELP = "restore at most N faces, highest confidence first"

Command = Callable[[argparse.Namespace], int]


class UsageError(Exception):
    """The flags are invalid; the message names them."""


def add_restore(parser: argparse.ArgumentParser, run: Command) -> None:
    """Add the arguments of `restore`."""
    parser.set_defaults(run=run)
    parser.add_argument(
        "source", metavar="IN", type=Path, help="a PNG, JPEG or WebP file, or a folder of them"
    )
    parser.add_argument(
        "target",
        metavar="OUT",
        type=Path,
        help="the output file; a folder if IN is one, or to keep the file name",
    )
    parser.add_argument("--report", metavar="FILE.json", type=Path, help="also write the report to this file")
    parser.add_argument(
        "--save-mask",
        metavar="PATH",
        type=Path,
        help="write the mask of what was changed as a gray PNG; a folder if IN is one",
    )
    parser.add_argument(
        "--save-crops",
        metavar="DIR",
        type=Path,
        help="write each restored face's aligned crop, before and after, to this folder",
    )
    faces = parser.add_argument_group("faces")
    low, high = defaults.FIDELITY_RANGE
    faces.add_argument(
        "--fidelity",
        type=float,
        metavar="W",
        help=f"CodeFormer's w: {low:g} looks best, {high:g} is closest to IN; others have none "
        f"(default {defaults.FIDELITY:g})",
    )
    faces.add_argument("--aligned", action="store_true", help=_ALIGNED_HELP)
    faces.add_argument(
        "--rule",
        choices=[rule.value for rule in FaceRule],
        default=RestoreRequest.rule.value,
        help="which faces to restore (default %(default)s)",
    )
    _add_number(faces, "--max-faces", int, "N", f"{_MAX_FACES_HELP}; 0: only upscale")
    _add_number(faces, "--min-face-px", float, "PX", "skip smaller faces, by the shorter side of the box")
    _add_number(faces, "--max-face-px", float, "PX", "skip larger faces")
    _add_number(faces, "--min-confidence", float, "C", "skip faces of lower confidence")
    common_flags.add_looking(faces)
    _add_number(faces, "--max-sharpness", float, "S", "skip sharper faces (detect prints the sharpness)")
    faces.add_argument(
        "--faces",
        metavar="PLAN.json",
        type=Path,
        help="the output of detect for IN, with fidelity, visibility or skip added to individual faces",
    )
    _add_number(faces, "--visibility", float, "V", "opacity of the restored face over the original")
    faces.add_argument(
        "--mask",
        choices=[kind.value for kind in MaskKind],
        default=RestoreRequest.mask.value,
        help="replace the face's square with feathered edges, or only the parts of the face that a parsing "
        "network finds (default %(default)s)",
    )
    common_flags.add_match_tone(faces)
    common_flags.add_identity(faces, [mode.value for mode in IdentityMode])
    _add_number(
        faces,
        "--min-similarity",
        float,
        "S",
        "with --identity guard: least cosine of before and after, -1 to 1 (default: set by the model set)",
    )
    image = parser.add_argument_group("image")
    image.add_argument(
        "--upscale",
        type=int,
        choices=defaults.UPSCALE_CHOICES,
        default=RestoreRequest.upscale,
        help="upscale the whole image (default %(default)s)",
    )
    upscaling = image.add_mutually_exclusive_group()
    upscaling.add_argument("--upscaler", metavar="FILE", help="checkpoint of the upscaler network")
    upscaling.add_argument(
        "--no-upscaler",
        dest="use_upscaler",
        action="store_false",
        help="upscale with Lanczos instead of a network",
    )
    image.add_argument("--format", choices=images.FORMATS, help="file format (default: by OUT's suffix)")
    _add_number(image, "--quality", int, "Q", "quality of JPEG and WebP, 1 to 100; 100 makes WebP lossless")
    common_flags.add_metadata(image)
    parser.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help=f"images of a folder at once, 1 to {MAX_CONCURRENCY}; fewer while the restorer is busy (default "
        f"{_CONCURRENCY_AT_SERVER} with --server, else {_CONCURRENCY_IN_PROCESS})",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip the images of a folder that an earlier run with --resume, or with a gateway, has restored "
        "with the same options; those that have changed since are restored again",
    )
    parser.add_argument(
        "--share",
        metavar="I/N",
        help="only the images of the I-th of N shares of a folder, counted from 0: one for each machine",
    )
    _add_connection_flags(
        parser,
        "HOST:PORT|URL",
        "use the restorer at this address, or the jobs of the gateway at this URL, such as http://HOST:7860",
    )


def add_detect(parser: argparse.ArgumentParser, run: Command) -> None:
    """Add the arguments of `detect`."""
    parser.set_defaults(run=run)
    parser.add_argument("source", metavar="IN", type=Path, help="a PNG, JPEG or WebP file")
    common_flags.add_looking(parser)
    default_confidence = DetectRequest.min_confidence
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="C",
        default=default_confidence,
        help=f"print faces above this confidence (default {default_confidence})",
    )
    _add_connection_flags(parser)


def add_compare(parser: argparse.ArgumentParser, run: Command) -> None:
    """Add the arguments of `compare`."""
    parser.set_defaults(run=run)
    parser.add_argument("source", metavar="IN", type=Path, help="a PNG, JPEG or WebP file")
    parser.add_argument(
        "target", metavar="DIR", type=Path, help="the folder to write NAME_w0.6.png and so on to"
    )
    parser.add_argument(
        "--fidelities",
        metavar="W",
        type=float,
        nargs="+",
        default=[0.0, 0.3, 0.6, 1.0],
        help=f"up to {defaults.MAX_FIDELITIES} values of CodeFormer's w (default 0 0.3 0.6 1)",
    )
    parser.add_argument(
        "--faces",
        metavar="PLAN.json",
        type=Path,
        help="the output of detect for IN, with skip or visibility added to individual faces",
    )
    parser.add_argument("--aligned", action="store_true", help=_ALIGNED_HELP)
    _add_number(parser, "--max-faces", int, "N", _MAX_FACES_HELP)
    common_flags.add_looking(parser)
    common_flags.add_match_tone(parser)
    common_flags.add_identity(parser, [IdentityMode.OFF.value, IdentityMode.REPORT.value])
    common_flags.add_metadata(parser)
    _add_connection_flags(parser)


def add_inspect(parser: argparse.ArgumentParser, run: Command) -> None:
    """Add the arguments of `inspect`."""
    parser.set_defaults(run=run)
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="a picture (PNG, JPEG, WebP) or a checkpoint file"
    )


def _add_number(
    group: argparse._ActionsContainer, flag: str, kind: type[int] | type[float], letter: str, meaning: str
) -> None:
    """Add a numeric flag whose default is the request's."""
    default = getattr(RestoreRequest, flag[2:].replace("-", "_"))
    text = meaning if default is None else f"{meaning} (default {default:g})"
    group.add_argument(flag, type=kind, metavar=letter, default=default, help=text)


def _add_connection_flags(
    parser: argparse.ArgumentParser,
    server: str = "HOST:PORT",
    server_help: str = "use the restorer at this address",
) -> None:
    in_process = parser.add_argument_group(
        "networks in this process",
        f"also environment variables: {_PREFIX}MODEL_SET, {_PREFIX}CODEFORMER, ...",
    )
    in_process.add_argument(
        "--model-set", metavar="DIR", help="folder with a manifest.json, or demo (default demo)"
    )
    in_process.add_argument(
        "--codeformer",
        metavar="FILE",
        help="checkpoint instead of the set's face restorer: CodeFormer, GFPGAN or RestoreFormer",
    )
    in_process.add_argument("--detector", metavar="FILE", help="checkpoint instead of the set's RetinaFace")
    in_process.add_argument(
        "--parser", metavar="FILE", help="checkpoint instead of the set's face parser: ParseNet or BiSeNet"
    )
    in_process.add_argument(
        "--identity-network",
        dest="identity",
        metavar="FILE",
        help="ONNX file, or checkpoint of ArcFace, instead of the set's identity network",
    )
    in_process.add_argument("--device", help="auto, cpu, cuda or cuda:N (default auto)")
    in_process.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="dtype of CodeFormer, face parser and upscaler",
    )
    remote = parser.add_argument_group(
        "a running service instead", "environment variable: ATELIER_API_KEY, where it has keys"
    )
    remote.add_argument("--server", metavar=server, help=server_help)
    remote.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help=f"timeout per image in seconds (default {defaults.DEADLINE_S:g})",
    )
    tls_flags.add_to(remote)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log what is loaded and done to standard error"
    )


def check_connection_flags(args: argparse.Namespace, *, takes_gateway: bool = False) -> None:
    """Raise `UsageError` for flags that have no meaning with --server, or without it, or for its value."""
    if is_gateway(args.server):
        if not takes_gateway:
            raise UsageError(f"--server: {args.command} takes the HOST:PORT of a restorer, not a URL")
        if not is_url(args.server):
            raise UsageError("--server must be HOST:PORT or a URL such as http://HOST:7860")
    if told := tls_flags.problem(args):
        raise UsageError(told)
    if args.server is None:
        if args.timeout is not None:
            raise UsageError("--timeout is for --server; without it there is no timeout")
        return
    if flags := [_flag_of_setting(name) for name in _IN_PROCESS if getattr(args, name, None) is not None]:
        verb = "selects" if len(flags) == 1 else "select"
        raise UsageError(f"{', '.join(flags)} {verb} networks in this process; --server has its own")
    if args.timeout is not None and not 0 < args.timeout < 1e6:
        raise UsageError(f"--timeout must be a number of seconds above 0, is {args.timeout:g}")


def share(args: argparse.Namespace) -> Share | None:
    """Return which share of the folder is wanted; None: all of it. Raises `UsageError`."""
    if args.share is None:
        return None
    if (share := Share.parse(args.share)) is None:
        raise UsageError(f"--share must be I/N with I from 0 to N - 1, such as 0/8, is {args.share}")
    return share


def concurrency(args: argparse.Namespace) -> int:
    """Return how many images may be worked on at once. Raises `UsageError` for a number out of range."""
    if args.concurrency is None:
        return _CONCURRENCY_IN_PROCESS if args.server is None else _CONCURRENCY_AT_SERVER
    if not 1 <= args.concurrency <= MAX_CONCURRENCY:
        raise UsageError(f"--concurrency must be from 1 to {MAX_CONCURRENCY}, is {args.concurrency}")
    return int(args.concurrency)


def files_read(args: argparse.Namespace) -> Iterable[Path]:
    """Return the files that are read besides the images: a plan, checkpoints, and those of a model set.

    Raises `UsageError` like `load_settings`.
    """
    faces = getattr(args, "faces", None)
    files = [] if faces is None else [Path(faces)]
    if args.server is None:
        loaded = load_settings(args)
        files += [Path(path) for name in _CHECKPOINTS if (path := getattr(loaded, name))]
        if loaded.model_set != BUILT_IN:
            files += [path for path in Path(loaded.model_set).expanduser().rglob("*") if path.is_file()]
    return files


def load_settings(args: argparse.Namespace) -> RestorerSettings:
    """Return the settings; flags override the environment. Raises `UsageError` naming what is invalid."""
    given = {name: value for name in _IN_PROCESS if (value := getattr(args, name, None)) is not None}
    try:
        return RestorerSettings(**given)
    except ValidationError as error:
        lines = settings.explain(RestorerSettings, error)
        raise UsageError("\n".join(_name_flag(line, args) for line in lines)) from None


def networks(args: argparse.Namespace) -> dict[str, str | None]:
    """Return the settings that say which networks restore in this process; of a server nobody knows them."""
    if args.server is not None:
        return {}
    loaded = load_settings(args)
    return {name: getattr(loaded, name) for name in ("model_set", *_CHECKPOINTS, "dtype")}


def explain(error: AtelierError) -> str:
    """Return the message of an error for the command line: fields are named by their flags."""
    parts = []
    for violation in error.fields:
        name = violation.field
        has_flag = name != "image" and not name.startswith("image.")
        parts.append(f"{_flag(name) if has_flag else 'the image'} {violation.message}")
    text = "; ".join(parts) or error.message
    return text if error.retry_after_s is None else f"{text} Try again in {error.retry_after_s:g} s."


def explain_startup(error: StartupError, args: argparse.Namespace) -> str:
    """Return the message of an error, which names the flag if it was set by one, else the variable."""
    return _name_flag(f"{_PREFIX}{error}", args)


def _name_flag(line: str, args: argparse.Namespace) -> str:
    for name in _IN_PROCESS:
        variable = f"{_PREFIX}{name.upper()}"
        if line.startswith((f"{variable}=", f"{variable}:")) and getattr(args, name, None) is not None:
            return _flag_of_setting(name) + line[len(variable) :].replace("=", " ", 1)
    return line


def _flag_of_setting(name: str) -> str:
    return _FLAG_OF_SETTING.get(name) or _flag(name)


def _flag(name: str) -> str:
    return _FLAG_OF_FIELD.get(name) or f"--{name.split('.')[-1].replace('_', '-')}"
