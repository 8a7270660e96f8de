"""Why a call fails: one enum, one exception class for each of its values.

    AtelierError
    ├── InvalidRequest          a field is missing, unknown or out of range
    ├── MalformedBody           the body is no JSON object (HTTP)
    ├── BodyTooLarge            larger than the limit
    ├── UnsupportedMediaType    a content type that we do not read (HTTP)
    ├── QueueFull               every place in the queue is taken
    ├── DeadlineUnmeetable      cannot be done in time, so not started
    ├── DeadlineExceeded        the deadline passed during the work
    ├── StageNotReady           still loading
    ├── StageDraining           shutting down
    ├── StageUnavailable        cannot be reached
    ├── OutOfMemory             the device's memory did not suffice, after one retry
    ├── BadPicture              non-finite values, or one colour
    ├── Cancelled               the client hung up
    ├── NotFound                no such page or method (HTTP)
    └── InternalError           our fault

Messages are shown to clients: they name the field and the limit, never a path or Python text.
`status.py` holds the table to gRPC and back, the gateway's `problems.py` the one to HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class ErrorReason(StrEnum):
    """Why a call failed; the same names as `atelier.common.v1.ErrorReason`, in lower case."""

    INVALID_REQUEST = "invalid_request"
    MALFORMED_BODY = "malformed_body"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    QUEUE_FULL = "queue_full"
    DEADLINE_UNMEETABLE = "deadline_unmeetable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    STAGE_NOT_READY = "stage_not_ready"
    STAGE_DRAINING = "stage_draining"
    STAGE_UNAVAILABLE = "stage_unavailable"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_PICTURE = "bad_picture"
    CANCELLED = "cancelled"
    NOT_FOUND = "not_found"
    INTERNAL = "internal"


class NotDoneReason(StrEnum):
    """Why something asked for was not done; the names of `atelier.common.v1.NotDoneReason`."""

    NO_FACE = "no_face"
    NOT_LOADED = "not_loaded"
    TOO_SMALL = "too_small"
    LOW_CONFIDENCE = "low_confidence"
    OVER_LIMIT = "over_limit"
    SKIPPED = "skipped"
    NOT_FINITE = "not_finite"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    RESTORER_UNAVAILABLE = "restorer_unavailable"


@dataclass(frozen=True)
class FieldViolation:
    """One field that was refused, and why, with the limit."""

    field: str
    message: str


class AtelierError(Exception):
    """The root: `message` may be shown to the client.

    `retry_after_s` tells when to come back, in seconds; None: coming back will not help, or unknown.
    """

    reason: ClassVar[ErrorReason]
    default_message: ClassVar[str] = ""

    def __init__(self, message: str | None = None, *, retry_after_s: float | None = None) -> None:
        self.message = self.default_message if message is None else message
        self.retry_after_s = retry_after_s
        self.fields: tuple[FieldViolation, ...] = ()
        super().__init__(self.message)


class InvalidRequest(AtelierError):
    """Fields are missing, unknown or out of range; `fields` names every one of them."""

    reason = ErrorReason.INVALID_REQUEST

    def __init__(self, fields: Sequence[FieldViolation], message: str | None = None) -> None:
        """`message` defaults to the violations in one line."""
        super().__init__(message or "; ".join(f"{v.field}: {v.message}" for v in fields))
        self.fields = tuple(fields)

    @classmethod
    def of(cls, field: str, message: str) -> InvalidRequest:
        """One field, one violation."""
        return cls([FieldViolation(field, message)])


class MalformedBody(AtelierError):
    """The body is no JSON object."""

    reason = ErrorReason.MALFORMED_BODY
    default_message = "The body is not a JSON object."


class BodyTooLarge(AtelierError):
    """The body or message is larger than the limit."""

    reason = ErrorReason.BODY_TOO_LARGE
    default_message = "The body is larger than the limit."


class UnsupportedMediaType(AtelierError):
    """The body's content type is not read here."""

    reason = ErrorReason.UNSUPPORTED_MEDIA_TYPE
    default_message = "The body must be application/json or text/plain."


class QueueFull(AtelierError):
    """Every place in the queue is taken."""

    reason = ErrorReason.QUEUE_FULL
    default_message = "Every place in the queue is taken."


class DeadlineUnmeetable(AtelierError):
    """The work cannot be done before the deadline, so it was not started."""

    reason = ErrorReason.DEADLINE_UNMEETABLE
    default_message = "The work cannot be done before the deadline."


class DeadlineExceeded(AtelierError):
    """The deadline passed."""

    reason = ErrorReason.DEADLINE_EXCEEDED
    default_message = "The deadline passed."


class StageNotReady(AtelierError):
    """The stage is still loading."""

    reason = ErrorReason.STAGE_NOT_READY
    default_message = "The stage is loading its networks."


class StageDraining(AtelierError):
    """The stage is shutting down."""

    reason = ErrorReason.STAGE_DRAINING
    default_message = "The stage is shutting down."


class StageUnavailable(AtelierError):
    """The stage cannot be reached."""

    reason = ErrorReason.STAGE_UNAVAILABLE
    default_message = "The stage cannot be reached."


class OutOfMemory(AtelierError):
    """The device's memory did not suffice, after one retry."""

    reason = ErrorReason.OUT_OF_MEMORY
    default_message = "The device's memory does not suffice for this request."


class BadPicture(AtelierError):
    """The networks made a picture with non-finite values, or of one colour."""

    reason = ErrorReason.BAD_PICTURE
    default_message = "The networks made no usable picture."


class Cancelled(AtelierError):
    """The client cancelled or hung up."""

    reason = ErrorReason.CANCELLED
    default_message = "The call was cancelled."


class NotFound(AtelierError):
    """There is no such page or method on this address."""

    reason = ErrorReason.NOT_FOUND
    default_message = "There is no such page."


class InternalError(AtelierError):
    """Our fault; the client gets the request id and no more."""

    reason = ErrorReason.INTERNAL
    default_message = "Something went wrong on our side."


ERROR_CLASSES: dict[ErrorReason, type[AtelierError]] = {
    cls.reason: cls
    for cls in (
        InvalidRequest,
        MalformedBody,
        BodyTooLarge,
        UnsupportedMediaType,
        QueueFull,
        DeadlineUnmeetable,
        DeadlineExceeded,
        StageNotReady,
        StageDraining,
        StageUnavailable,
        OutOfMemory,
        BadPicture,
        Cancelled,
        NotFound,
        InternalError,
    )
}
"""Every exception class by its reason; total, held by a test."""


def make_error(
    reason: ErrorReason,
    message: str,
    *,
    fields: Sequence[FieldViolation] = (),
    retry_after_s: float | None = None,
) -> AtelierError:
    """Build the exception of a reason that came over a wire."""
    if reason is ErrorReason.INVALID_REQUEST:
        return InvalidRequest(fields, message)
    return ERROR_CLASSES[reason](message, retry_after_s=retry_after_s)
