"""The commands' flags, and what they mean to settings and requests."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from atelier_restorer.commands.faces import read_face_edits
from atelier_restorer.commands.files import FORMAT_OF_SUFFIX
from atelier_restorer.request import DetectRequest, FaceRule, MaskKind, RestoreRequest
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import defaults, images, settings
from atelier_runtime.errors import AtelierError, InvalidRequest
from atelier_runtime.settings import StartupError

_PREFIX = str(RestorerSettings.model_config["env_prefix"])
_IN_PROCESS = ("model_set", "codeformer", "detector", "parser", "upscaler", "device", "dtype")
"""Settings that have a flag; with --server they would be somebody else's."""
_FLAG_OF_FIELD = {"use_upscaler": "--no-upscaler", "detect_size_px": "--detect-size"}

Command = Callable[[argparse.Namespace], int]


class UsageError(Exception):
    """The flags cannot be meant; the message names them."""


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
        help="the file to write; a folder if IN is one, or to keep the name",
    )
    parser.add_argument("--report", metavar="FILE.json", type=Path, help="write the report here as well")
    parser.add_argument(
        "--save-mask",
        metavar="PATH",
        type=Path,
        help="write what was changed as a gray PNG; a folder if IN is one",
    )
    parser.add_argument(
        "--save-crops",
        metavar="DIR",
        type=Path,
        help="write each restored face's aligned crop before and after into this folder",
    )
    faces = parser.add_argument_group("faces")
    low, high = defaults.FIDELITY_RANGE
    _number(faces, "--fidelity", float, "W", f"CodeFormer's w, {low:g} looks best, {high:g} is closest to IN")
    faces.add_argument("--aligned", action="store_true", help="IN is one face of 512x512 px, aligned already")
    faces.add_argument(
        "--rule",
        choices=[rule.value for rule in FaceRule],
        default=RestoreRequest.rule.value,
        help="which faces to restore (default %(default)s)",
    )
    _number(faces, "--max-faces", int, "N", "restore at most so many, the surest first; 0 enlarges only")
    _number(faces, "--min-face-px", float, "PX", "leave smaller faces alone (shorter side of the box)")
    _number(faces, "--max-face-px", float, "PX", "leave larger faces alone")
    _number(faces, "--min-confidence", float, "C", "leave faces alone that the detector is less sure of")
    _number(faces, "--max-sharpness", float, "S", "leave faces alone that are sharper (detect tells)")
    faces.add_argument(
        "--faces",
        metavar="PLAN.json",
        type=Path,
        help="what detect printed for IN, with fidelity, visibility or skip added to single faces",
    )
    _number(faces, "--visibility", float, "V", "share of the restored face in the blend with the original")
    faces.add_argument(
        "--mask",
        choices=[kind.value for kind in MaskKind],
        default=RestoreRequest.mask.value,
        help="replace the face's square with soft edges, or what a parsing network sees of the face "
        "(default %(default)s)",
    )
    _add_match_tone(faces)
    picture = parser.add_argument_group("picture")
    picture.add_argument(
        "--upscale",
        type=int,
        choices=defaults.UPSCALE_CHOICES,
        default=RestoreRequest.upscale,
        help="enlarge the whole picture (default %(default)s)",
    )
    enlarger = picture.add_mutually_exclusive_group()
    enlarger.add_argument("--upscaler", metavar="FILE", help="checkpoint of the upscaler network")
    enlarger.add_argument(
        "--no-upscaler",
        dest="use_upscaler",
        action="store_false",
        help="enlarge by Lanczos instead of a network",
    )
    picture.add_argument("--format", choices=images.FORMATS, help="file format (default: by OUT's name)")
    _number(picture, "--quality", int, "Q", "of JPEG and WebP, 1 to 100, which makes WebP lossless")
    _add_where(parser)


def add_detect(parser: argparse.ArgumentParser, run: Command) -> None:
    """Add the arguments of `detect`."""
    parser.set_defaults(run=run)
    parser.add_argument("source", metavar="IN", type=Path, help="a PNG, JPEG or WebP file")
    default = DetectRequest.detect_size_px
    parser.add_argument(
        "--detect-size",
        dest="detect_size_px",
        type=int,
        metavar="N",
        default=default,
        help=f"resize the short side to N px for the detector, 0: as it is (default {default})",
    )
    default_confidence = DetectRequest.min_confidence
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="C",
        default=default_confidence,
        help=f"print faces surer than this (default {default_confidence})",
    )
    _add_where(parser)


def add_compare(parser: argparse.ArgumentParser, run: Command) -> None:
    """Add the arguments of `compare`."""
    parser.set_defaults(run=run)
    parser.add_argument("source", metavar="IN", type=Path, help="a PNG, JPEG or WebP file")
    parser.add_argument(
        "target", metavar="DIR", type=Path, help="the folder to write NAME_w0.6.png and the like into"
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
        help="what detect printed for IN, with skip or visibility added to single faces",
    )
    parser.add_argument(
        "--aligned", action="store_true", help="IN is one face of 512x512 px, aligned already"
    )
    _number(parser, "--max-faces", int, "N", "restore at most so many, the surest first")
    _add_match_tone(parser)
    _add_where(parser)


def add_inspect(parser: argparse.ArgumentParser, run: Command) -> None:
    """Add the arguments of `inspect`."""
    parser.set_defaults(run=run)
    parser.add_argument("checkpoints", metavar="CHECKPOINT", type=Path, nargs="+", help="a checkpoint file")


def _add_match_tone(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--match-tone",
        action=argparse.BooleanOptionalAction,
        help="take the difference of tone along a face's square off the restored face, so that no lighter or "
        "darker box shows (default: as the model set says; the built-in set does)",
    )


def _number(
    group: argparse._ActionsContainer, flag: str, kind: type[int] | type[float], letter: str, meaning: str
) -> None:
    """Add a number with the request's own default."""
    default = getattr(RestoreRequest, flag[2:].replace("-", "_"))
    text = meaning if default is None else f"{meaning} (default {default:g})"
    group.add_argument(flag, type=kind, metavar=letter, default=default, help=text)


def _add_where(parser: argparse.ArgumentParser) -> None:
    here = parser.add_argument_group(
        "networks in this process", f"each has a variable too: {_PREFIX}MODEL_SET, {_PREFIX}CODEFORMER, ..."
    )
    here.add_argument(
        "--model-set", metavar="DIR", help="folder with a manifest.json, or demo (default demo)"
    )
    here.add_argument("--codeformer", metavar="FILE", help="checkpoint in place of the set's CodeFormer")
    here.add_argument("--detector", metavar="FILE", help="checkpoint in place of the set's RetinaFace")
    here.add_argument("--parser", metavar="FILE", help="checkpoint in place of the set's ParseNet")
    here.add_argument("--device", help="auto, cpu, cuda or cuda:N (default auto)")
    here.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="of CodeFormer")
    there = parser.add_argument_group("a running service instead")
    there.add_argument("--server", metavar="HOST:PORT", help="ask the restorer that listens there")
    there.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help=f"seconds that a picture may take there (default {defaults.DEADLINE_S:g})",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log to standard error what is loaded and done"
    )


def check_where(chosen: argparse.Namespace) -> None:
    """Raise `UsageError` for flags of the one place that mean nothing in the other."""
    if chosen.server is None:
        if chosen.timeout is not None:
            raise UsageError("--timeout is for --server; in this process a picture may take its time")
        return
    if flags := [_flag(name) for name in _IN_PROCESS if getattr(chosen, name, None) is not None]:
        verb = "chooses" if len(flags) == 1 else "choose"
        raise UsageError(f"{', '.join(flags)} {verb} networks of this process; --server has its own")
    if chosen.timeout is not None and not 0 < chosen.timeout < 1e6:
        raise UsageError(f"--timeout must be a number of seconds above 0, is {chosen.timeout:g}")


def load_settings(chosen: argparse.Namespace) -> RestorerSettings:
    """Return the settings: flags before the environment. Raises `UsageError` naming what is wrong."""
    given = {name: value for name in _IN_PROCESS if (value := getattr(chosen, name, None)) is not None}
    try:
        return RestorerSettings(**given)
    except ValidationError as error:
        lines = settings.explain(RestorerSettings, error)
        raise UsageError("\n".join(_by_flag(line, chosen) for line in lines)) from None


def restore_request(chosen: argparse.Namespace) -> RestoreRequest:
    """Return the request, without its output format. Raises `UsageError` naming every flag out of range."""
    names = (
        *(
            "fidelity",
            "aligned",
            "max_faces",
            "min_face_px",
            "max_face_px",
            "min_confidence",
            "max_sharpness",
        ),
        *("visibility", "upscale", "use_upscaler", "match_tone", "quality"),
    )
    try:
        return RestoreRequest(
            **{name: getattr(chosen, name) for name in names},
            faces=() if chosen.faces is None else read_face_edits(chosen.faces),
            return_crops=chosen.save_crops is not None,
            rule=FaceRule(chosen.rule),
            mask=MaskKind(chosen.mask),
            return_mask=chosen.save_mask is not None,
        )
    except InvalidRequest as error:
        raise UsageError(explain(error)) from None


def compare_request(chosen: argparse.Namespace) -> RestoreRequest:
    """Return what the comparisons have in common. Raises `UsageError` naming every flag out of range."""
    try:
        return RestoreRequest(
            aligned=chosen.aligned,
            max_faces=chosen.max_faces,
            match_tone=chosen.match_tone,
            faces=() if chosen.faces is None else read_face_edits(chosen.faces),
            output_format=FORMAT_OF_SUFFIX.get(chosen.source.suffix.lower(), defaults.OUTPUT_FORMAT),
        )
    except InvalidRequest as error:
        raise UsageError(explain(error)) from None


def fidelities(chosen: argparse.Namespace) -> list[float]:
    """Return the fidelities to compare. Raises `UsageError` for too many, doubled or out of range."""
    given = chosen.fidelities
    low, high = defaults.FIDELITY_RANGE
    if len(given) > defaults.MAX_FIDELITIES or len({f"{w:g}" for w in given}) < len(given):
        raise UsageError(f"--fidelities takes up to {defaults.MAX_FIDELITIES} different values")
    if not all(low <= w <= high for w in given):
        raise UsageError(f"--fidelities must be between {low} and {high}")
    return list(given)


def detect_request(chosen: argparse.Namespace) -> DetectRequest:
    """Return the request. Raises `UsageError` naming every flag out of range."""
    try:
        return DetectRequest(chosen.min_confidence, chosen.detect_size_px)
    except InvalidRequest as error:
        raise UsageError(explain(error)) from None


def explain(error: AtelierError) -> str:
    """Say an error in the words of the command line: fields by their flags."""
    parts = []
    for violation in error.fields:
        name = violation.field
        known = name != "image" and not name.startswith("image.")
        parts.append(f"{_flag(name) if known else 'the picture'} {violation.message}")
    text = "; ".join(parts) or error.message
    return text if error.retry_after_s is None else f"{text} Try again in {error.retry_after_s:g} s."


def explain_startup(error: StartupError, chosen: argparse.Namespace) -> str:
    """Name the flag, if a flag said it, else the variable."""
    return _by_flag(f"{_PREFIX}{error}", chosen)


def _by_flag(line: str, chosen: argparse.Namespace) -> str:
    for name in _IN_PROCESS:
        variable = f"{_PREFIX}{name.upper()}"
        if line.startswith((f"{variable}=", f"{variable}:")) and getattr(chosen, name, None) is not None:
            return _flag(name) + line[len(variable) :].replace("=", " ", 1)
    return line


def _flag(name: str) -> str:
    return _FLAG_OF_FIELD.get(name) or f"--{name.split('.')[-1].replace('_', '-')}"
