"""Flags of `atelier-generator draw` for masks, and for passes after the first."""

from __future__ import annotations

import argparse
import re
from typing import get_args

from atelier_generator.request import GenerateRequest, HiresPass, MaskKind
from atelier_runtime import defaults
from atelier_runtime.errors import InvalidRequest

_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--mask-kind",
        choices=get_args(MaskKind),
        help=f"which part of the mask is drawn anew (default {defaults.MASK_KIND})",
    )
    parser.add_argument(
        "--mask-blur",
        dest="mask_blur_px",
        type=float,
        metavar="PX",
        help="blurs the mask's edges: the Gaussian's standard deviation in px of the mask "
        f"(default {defaults.MASK_BLUR_PX:g})",
    )
    parser.add_argument(
        "--refiner-strength",
        type=float,
        default=GenerateRequest.refiner_strength,
        help="how much the refiner's own pass redraws; without effect on a hires pass or fix "
        f"(default {defaults.REFINER_STRENGTH:g})",
    )
    parser.add_argument(
        "--hires-pass",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="draw at --width and --height, then upscale to this size, the result's, and redraw",
    )
    parser.add_argument(
        "--hires-strength",
        type=float,
        help=f"how much the hires pass redraws (default {defaults.HIRES_STRENGTH:g})",
    )
    parser.add_argument(
        "--hires-steps",
        type=int,
        help=f"the hires pass's steps, of which its strength is run (default {defaults.HIRES_STEPS})",
    )


def hires_pass_of(args: argparse.Namespace) -> HiresPass | None:
    """Return the hires pass that the flags ask for. Raises `InvalidRequest`."""
    given = {"strength": args.hires_strength, "num_inference_steps": args.hires_steps}
    options = {name: value for name, value in given.items() if value is not None}
    if args.hires_pass is not None:
        return HiresPass(*args.hires_pass, **options)
    for flag, value in (("--hires-strength", args.hires_strength), ("--hires-steps", args.hires_steps)):
        if value is not None:
            raise InvalidRequest.of(flag, "requires --hires-pass")
    return None


def _size(text: str) -> tuple[int, int]:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a size; give WIDTHxHEIGHT, such as 1536x1024")
    return int(match[1]), int(match[2])
