"""What a signed manifest says of a picture, and who signs it (`atelier_gateway.credentials`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from atelier_gateway.core.values import FaceOutcome, Restoration, RestoreSpec
from atelier_runtime import defaults
from atelier_runtime.errors import InternalError, InvalidRequest
from atelier_runtime.images import Format, is_lossless, sniffed_format
from atelier_runtime.images.attachments import without_credentials
from atelier_runtime.outcomes import ResponseWarning, WarningCode
from atelier_runtime.recipes import COMPOSITE, read_marks

LANCZOS = "lanczos"
"""The upscaler that is no network."""


@dataclass(frozen=True)
class Claim:
    """How a picture came to be.

    `source_type`: IPTC's term. `opened`: the file that it was made of; None: it was drawn from nothing.
    `faces`: x1, y1, x2, y2 of those that a network has restored, in px of the picture. `model_sets`: name and
    SHA-256 of each set that had a part in it. `redrawn`: a network drew it from the file that was opened.
    `resized`: it was enlarged; `by_network`: by a network. `transcoded`: its format is another, or a lossy
    one, which is only said where nothing else was done.
    """

    source_type: str
    opened: bytes | None = field(default=None, repr=False)
    faces: tuple[tuple[float, float, float, float], ...] = ()
    model_sets: tuple[tuple[str, str], ...] = ()
    redrawn: bool = False
    resized: bool = False
    by_network: bool = False
    transcoded: bool = False


@dataclass(frozen=True)
class Signed:
    """A signed file. `problem`: why the manifest of the file that was opened is not part of its own."""

    file: bytes = field(repr=False)
    problem: str | None = None

    def warnings(self, earlier: tuple[ResponseWarning, ...] = ()) -> tuple[ResponseWarning, ...]:
        """Return what the client should know, with what it was told before.

        That the file's credentials were dropped is not true of a signed one: they are kept, or the problem
        says why not.
        """
        found = [replace(each, message=without_credentials(each.message) or "") for each in earlier]
        if self.problem is not None:
            message = (
                "The content credentials (C2PA) of the image cannot be read and are not part of the new "
                f"ones: {self.problem}."
            )
            found.append(ResponseWarning(WarningCode.METADATA_DROPPED, message))
        return tuple(each for each in found if each.message)


class Signer(Protocol):
    """Signs files."""

    def signed(self, file: bytes, file_format: Format, claim: Claim) -> Signed:
        """As `sign`, and say what was left out of it."""

    def sign(self, file: bytes, file_format: Format, claim: Claim) -> bytes:
        """Return the file with a signed manifest. Takes milliseconds: not for the event loop.

        Raises `InternalError` if it cannot be signed.
        """


def restored_boxes(faces: tuple[FaceOutcome, ...]) -> tuple[tuple[float, float, float, float], ...]:
    """Return where faces were restored."""
    return tuple(outcome.face.box for outcome in faces if outcome.restored)


def claim_of_restoration(spec: RestoreSpec, restoration: Restoration) -> Claim:
    """Return the claim of a restored photograph, which calls it what its XMP calls it.

    Reads the file: not for the event loop.
    """
    image_format, quality = restoration.image.format, spec.quality
    is_same = sniffed_format(spec.image.data) == image_format
    is_exact = is_lossless(image_format, defaults.QUALITY if quality is None else quality)
    return Claim(
        source_type=_source_type_of(restoration.image.data) or COMPOSITE,
        opened=spec.image.data,
        faces=restored_boxes(restoration.faces),
        model_sets=((restoration.model_set, restoration.model_set_hash),),
        resized=restoration.upscale_applied > 1,
        by_network=restoration.upscaler not in ("", LANCZOS),
        transcoded=not (is_same and is_exact),
    )


def _source_type_of(file: bytes) -> str | None:
    try:
        return read_marks(file).source_type
    except InvalidRequest as error:
        raise InternalError(f"The image of the restorer {error.fields[0].message}.") from error
