"""The requests that the flags of the commands make up."""

from __future__ import annotations

import argparse
from typing import Any

from atelier_restorer.commands import options
from atelier_restorer.commands.faces import read_face_edits
from atelier_restorer.commands.paths import FORMAT_OF_SUFFIX
from atelier_restorer.request import DetectRequest, FaceRule, IdentityMode, Look, MaskKind, RestoreRequest
from atelier_runtime import defaults
from atelier_runtime.errors import InvalidRequest


def restore_request(args: argparse.Namespace) -> RestoreRequest:
    """Return the request, without its output format. Raises `UsageError` naming every flag out of range."""
    names = (
        *(
            "aligned",
            "max_faces",
            "min_face_px",
            "max_face_px",
            "min_confidence",
            "max_sharpness",
        ),
        *("visibility", "upscale", "use_upscaler", "match_tone", "quality", "detect_size_px"),
        *("min_similarity", "metadata"),
    )
    try:
        return RestoreRequest(
            **({name: getattr(args, name) for name in names} | _faces(args)),
            fidelity=defaults.FIDELITY if args.fidelity is None else args.fidelity,
            fidelity_given=args.fidelity is not None,
            return_crops=args.save_crops is not None,
            rule=FaceRule(args.rule),
            look=Look(args.look),
            mask=MaskKind(args.mask),
            identity=_identity(args),
            return_mask=args.save_mask is not None,
        )
    except InvalidRequest as error:
        raise options.UsageError(options.explain(error)) from None


def compare_request(args: argparse.Namespace) -> RestoreRequest:
    """Return the request for every fidelity. Raises `UsageError` naming every flag out of range."""
    try:
        return RestoreRequest(
            **({"max_faces": args.max_faces} | _faces(args)),
            aligned=args.aligned,
            detect_size_px=args.detect_size_px,
            look=Look(args.look),
            match_tone=args.match_tone,
            identity=_identity(args),
            metadata=args.metadata,
            output_format=FORMAT_OF_SUFFIX.get(args.source.suffix.lower(), defaults.OUTPUT_FORMAT),
        )
    except InvalidRequest as error:
        raise options.UsageError(options.explain(error)) from None


def _identity(args: argparse.Namespace) -> IdentityMode | None:
    return None if args.identity_mode is None else IdentityMode(args.identity_mode)


def _faces(args: argparse.Namespace) -> dict[str, Any]:
    if args.faces is None:
        return {}
    edits = read_face_edits(args.faces)
    # a plan without faces restores none; a request without faces would have them detected
    return {"faces": edits} if edits else {"max_faces": 0}


def fidelities(args: argparse.Namespace) -> list[float]:
    """Return the fidelities to compare. Raises `UsageError` for too many, duplicates, or out of range."""
    given = args.fidelities
    low, high = defaults.FIDELITY_RANGE
    if len(given) > defaults.MAX_FIDELITIES or len({f"{w:g}" for w in given}) < len(given):
        raise options.UsageError(f"--fidelities takes up to {defaults.MAX_FIDELITIES} different values")
    if not all(low <= w <= high for w in given):
        raise options.UsageError(f"--fidelities must be between {low} and {high}")
    return list(given)


def detect_request(args: argparse.Namespace) -> DetectRequest:
    """Return the request. Raises `UsageError` naming every flag out of range."""
    try:
        return DetectRequest(args.min_confidence, args.detect_size_px, Look(args.look))
    except InvalidRequest as error:
        raise options.UsageError(options.explain(error)) from None
