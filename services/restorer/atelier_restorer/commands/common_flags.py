"""Flags that several commands have."""

from __future__ import annotations

import argparse
from typing import get_args

from atelier_restorer.request import DetectRequest, IdentityMode, Look
from atelier_runtime import defaults
from atelier_runtime.outcomes import Metadata


def add_metadata(group: argparse._ActionsContainer) -> None:
    """Add what says whether a file tells how it was made."""
    group.add_argument(
        "--metadata",
        choices=get_args(Metadata),
        default=defaults.METADATA,
        help="what OUT says of how it was made: which faces are restored, and with what (recipe), or nothing "
        "(none); what IN says of itself stays (default %(default)s)",
    )


def add_looking(group: argparse._ActionsContainer) -> None:
    """Add what says where to look for faces."""
    size = DetectRequest.detect_size_px
    group.add_argument(
        "--detect-size",
        dest="detect_size_px",
        type=int,
        metavar="N",
        default=size,
        help=f"resize the short side to N px for the detector; 0: full resolution (default {size})",
    )
    group.add_argument(
        "--look",
        choices=[look.value for look in Look],
        default=DetectRequest.look.value,
        help="look for faces once; again, turned and larger, where the first look gives reason to (auto); or "
        "in any case (thorough) (default %(default)s)",
    )


def add_match_tone(group: argparse._ActionsContainer) -> None:
    """Add what says whether the tone of faces is matched."""
    group.add_argument(
        "--match-tone",
        action=argparse.BooleanOptionalAction,
        help="match the tone of a restored face to its surroundings, so that no visible box remains "
        "around the face (default: set by the model set; on for the built-in set)",
    )


def add_identity(group: argparse._ActionsContainer, modes: list[str]) -> None:
    """Add what says whether the likeness is measured, of these modes."""
    guard = (
        "; guard raises the fidelity of a face that would become somebody else (with a network that has "
        "none, it lowers the visibility), or leaves it as it was"
        if IdentityMode.GUARD in modes
        else ""
    )
    group.add_argument(
        "--identity",
        dest="identity_mode",
        choices=modes,
        help="report how alike each face is to the face before, or do not measure it"
        f"{guard} (default: report where an identity network is loaded)",
    )
