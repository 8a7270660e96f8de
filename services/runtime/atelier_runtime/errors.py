"""Why a call fails: one enum, and one exception class for each of its values.

    AtelierError
    ├── InvalidRequest          a field is missing, unknown or out of range
    ├── MalformedBody           the body is not a JSON object (HTTP)
    ├── BodyTooLarge            the body or message exceeds the limit
    ├── RequestTimeout          the body arrived too slowly (HTTP)
    ├── UnsupportedMediaType    the content type is not supported (HTTP)
    ├── QueueFull               the queue is full
    ├── DeadlineUnmeetable      cannot finish in time, so it was not started
    ├── DeadlineExceeded        the deadline expired while queued or running
    ├── ServiceNotReady         still loading
    ├── ServiceDraining         shutting down
    ├── ServiceUnavailable      cannot be reached
    ├── NotServed               there is no such service, on purpose (HTTP)
    ├── OutOfMemory             the device ran out of memory, after one retry
    ├── BadImage                non-finite values, or a single color
    ├── Cancelled               the client canceled or disconnected
    ├── Unauthenticated         no API key, or one that is unknown or has expired
    ├── Forbidden               the key's scopes, or where the request comes from, do not allow it
    ├── RateLimited             the key has used up what it may ask for in this minute or day
    ├── NotFound                no such path or method (HTTP)
    └── InternalError           a bug or an unforeseen failure

Messages are shown to clients: they name the field and the limit, never a path or Python text.
`rpc_errors.py` maps them to gRPC and back, the gateway's `http/errors.py` to HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class ErrorReason(StrEnum):
    """Why a call failed; the members are named as in `atelier.common.v1.ErrorReason`.

    The values are what JSON clients read in `error.code`, and metrics' labels. Clients of 0.1 know four of
    them by older names, so those differ from their members'.
    """

    INVALID_REQUEST = "invalid_request"
    MALFORMED_BODY = "malformed_body"
    BODY_TOO_LARGE = "body_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    QUEUE_FULL = "queue_full"
    DEADLINE_UNMEETABLE = "deadline_unmeetable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    SERVICE_NOT_READY = "stage_not_ready"
    SERVICE_DRAINING = "stage_draining"
    SERVICE_UNAVAILABLE = "stage_unavailable"
    NOT_SERVED = "not_served"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_IMAGE = "bad_picture"
    CANCELLED = "cancelled"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    NOT_FOUND = "not_found"
    GONE = "gone"
    INTERNAL = "internal"


_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]-]{0,59}")
_MAX_LOGGED_FIELDS = 10


@dataclass(frozen=True)
class FieldViolation:
    """A field that was rejected, and why, with the limit."""

    field: str
    message: str


class AtelierError(Exception):
    """The root of the tree; `message` may be shown to the client.

    `retry_after_s` is when to retry, in seconds; None: retrying will not help, or it is unknown when.
    """

    reason: ClassVar[ErrorReason]
    default_message: ClassVar[str] = ""

    def __init__(self, message: str | None = None, *, retry_after_s: float | None = None) -> None:
        self.message = self.default_message if message is None else message
        self.retry_after_s = retry_after_s
        self.fields: tuple[FieldViolation, ...] = ()
        super().__init__(self.message)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what there is: the default would pass the message to the class, whatever that takes."""
        return _with_arguments, (type(self), self.args), self.__dict__

    def for_log(self) -> dict[str, object]:
        """Return the fields of a log line.

        The message of refused fields shows their values, which are private: the log has their names.
        """
        if not self.fields:
            return {"reason": self.reason, "error": self.message}
        names = [v.field if _FIELD_NAME.fullmatch(v.field) else "?" for v in self.fields[:_MAX_LOGGED_FIELDS]]
        return {"reason": self.reason, "fields": names}


def _with_arguments(cls: type[AtelierError], arguments: tuple[object, ...]) -> AtelierError:
    """Return an exception of which the attributes are still to be set."""
    return cls.__new__(cls, *arguments)


class InvalidRequest(AtelierError):
    """Fields are missing, unknown or out of range; `fields` names every one of them."""

    reason = ErrorReason.INVALID_REQUEST

    def __init__(self, fields: Sequence[FieldViolation], message: str | None = None) -> None:
        """`message` defaults to the violations in one line."""
        super().__init__(message or "; ".join(f"{v.field}: {v.message}" for v in fields))
        self.fields = tuple(fields)

    @classmethod
    def of(cls, field: str, message: str) -> InvalidRequest:
        """Return the error of a single field."""
        return cls([FieldViolation(field, message)])

    def rename_fields(self, new_name: Callable[[str], str]) -> InvalidRequest:
        """Return the same error with other names of fields: those of another protocol or of a client."""
        return InvalidRequest([FieldViolation(new_name(v.field), v.message) for v in self.fields])


class MalformedBody(AtelierError):
    """The body is not a JSON object."""

    reason = ErrorReason.MALFORMED_BODY
    default_message = "The body is not a JSON object."


class BodyTooLarge(AtelierError):
    """The body or message exceeds the limit."""

    reason = ErrorReason.BODY_TOO_LARGE
    default_message = "The body is larger than the limit."


class RequestTimeout(AtelierError):
    """The body arrived too slowly."""

    reason = ErrorReason.REQUEST_TIMEOUT
    default_message = "The body arrived too slowly."


class UnsupportedMediaType(AtelierError):
    """The body's content type is not supported."""

    reason = ErrorReason.UNSUPPORTED_MEDIA_TYPE
    default_message = "The body must be application/json or text/plain."


class QueueFull(AtelierError):
    """The queue is full."""

    reason = ErrorReason.QUEUE_FULL
    default_message = "The queue is full."


class DeadlineUnmeetable(AtelierError):
    """The work cannot be finished before the deadline, so it was not started."""

    reason = ErrorReason.DEADLINE_UNMEETABLE
    default_message = "The work cannot be finished before the deadline."


class DeadlineExceeded(AtelierError):
    """The deadline expired."""

    reason = ErrorReason.DEADLINE_EXCEEDED
    default_message = "The deadline expired."


class ServiceNotReady(AtelierError):
    """The service is still loading."""

    reason = ErrorReason.SERVICE_NOT_READY
    default_message = "The service is loading its networks."


class ServiceDraining(AtelierError):
    """The service is shutting down."""

    reason = ErrorReason.SERVICE_DRAINING
    default_message = "The service is shutting down."


class ServiceUnavailable(AtelierError):
    """The service cannot be reached."""

    reason = ErrorReason.SERVICE_UNAVAILABLE
    default_message = "The service cannot be reached."


class NotServed(AtelierError):
    """The installation has no service for such requests, on purpose: retrying will not help."""

    reason = ErrorReason.NOT_SERVED
    default_message = "Such requests are not served here."


class OutOfMemory(AtelierError):
    """The device ran out of memory, after one retry."""

    reason = ErrorReason.OUT_OF_MEMORY
    default_message = "The device does not have enough memory for this request."


class BadImage(AtelierError):
    """The networks produced an image with non-finite values, or of a single color."""

    reason = ErrorReason.BAD_IMAGE
    default_message = "The networks produced no usable image."


class Cancelled(AtelierError):
    """The client canceled or disconnected."""

    reason = ErrorReason.CANCELLED
    default_message = "The call was canceled."


class Unauthenticated(AtelierError):
    """There is no API key, or one that is unknown or has expired."""

    reason = ErrorReason.UNAUTHENTICATED
    default_message = "An API key is required."


class Forbidden(AtelierError):
    """The key's scopes do not allow it, or the request comes from where none may come from."""

    reason = ErrorReason.FORBIDDEN
    default_message = "This is not allowed."


class RateLimited(AtelierError):
    """The key has used up what it may ask for in this minute or day."""

    reason = ErrorReason.RATE_LIMITED
    default_message = "This key has used up what it may ask for."


class NotFound(AtelierError):
    """There is no such path or method."""

    reason = ErrorReason.NOT_FOUND
    default_message = "There is no such path."


class Gone(AtelierError):
    """There was such a thing, but it has expired."""

    reason = ErrorReason.GONE
    default_message = "It has expired."


class InternalError(AtelierError):
    """A bug or an unforeseen failure; the client gets the request ID and no more."""

    reason = ErrorReason.INTERNAL
    default_message = "Internal error."


ERROR_CLASSES: dict[ErrorReason, type[AtelierError]] = {
    cls.reason: cls
    for cls in (
        InvalidRequest,
        MalformedBody,
        BodyTooLarge,
        RequestTimeout,
        UnsupportedMediaType,
        QueueFull,
        DeadlineUnmeetable,
        DeadlineExceeded,
        ServiceNotReady,
        ServiceDraining,
        ServiceUnavailable,
        NotServed,
        OutOfMemory,
        BadImage,
        Cancelled,
        Unauthenticated,
        Forbidden,
        RateLimited,
        NotFound,
        Gone,
        InternalError,
    )
}
"""Every exception class by its reason; a test checks that it is complete."""


def make_error(
    reason: ErrorReason,
    message: str,
    *,
    fields: Sequence[FieldViolation] = (),
    retry_after_s: float | None = None,
) -> AtelierError:
    """Build the exception of a reason that another process sent."""
    if reason is ErrorReason.INVALID_REQUEST:
        return InvalidRequest(fields, message)
    return ERROR_CLASSES[reason](message, retry_after_s=retry_after_s)


RETRYABLE = frozenset(
    {
        ErrorReason.QUEUE_FULL,
        ErrorReason.DEADLINE_UNMEETABLE,
        ErrorReason.SERVICE_NOT_READY,
        ErrorReason.SERVICE_DRAINING,
        ErrorReason.SERVICE_UNAVAILABLE,
        ErrorReason.RATE_LIMITED,
    }
)
"""Worth retrying later. Out of memory is not: the same request would fail again."""

DEFAULT_RETRY_AFTER_S = 5.0
"""When to retry if nobody can estimate it: a service that is loading or cannot be reached."""

REFUSALS = RETRYABLE - {ErrorReason.SERVICE_UNAVAILABLE} | {
    ErrorReason.INVALID_REQUEST,
    ErrorReason.MALFORMED_BODY,
    ErrorReason.BODY_TOO_LARGE,
    ErrorReason.REQUEST_TIMEOUT,
    ErrorReason.UNSUPPORTED_MEDIA_TYPE,
    ErrorReason.UNAUTHENTICATED,
    ErrorReason.FORBIDDEN,
}
"""Raised before any work is done; counted as `atelier_refusals_total`."""
