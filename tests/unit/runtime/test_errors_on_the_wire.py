"""Every exception class over gRPC and back, and the enums of the protos."""

import pickle
import re
from enum import StrEnum

import grpc
import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from grpc_status import rpc_status

from atelier.common.v1 import error_reason_pb2, service_status_pb2, skip_reason_pb2, warning_pb2
from atelier_runtime import errors, rpc_errors
from atelier_runtime.errors import ERROR_CLASSES, ErrorReason, FieldViolation, InvalidRequest
from atelier_runtime.outcomes import SkipReason, WarningCode
from atelier_runtime.service_status import NetworkRole


def subclasses(cls: type) -> set[type]:
    direct: set[type] = set(cls.__subclasses__())
    return direct.union(*(subclasses(child) for child in direct))


def make(reason: ErrorReason) -> errors.AtelierError:
    fields = [FieldViolation("width", "must be a multiple of 8")]
    return errors.make_error(reason, "a message", fields=fields, retry_after_s=3.5)


class Call(grpc.aio.AioRpcError):
    """A failed call as a client sees it, built from the status that a server sends."""

    def __init__(self, sent: object) -> None:
        grpc_status = rpc_status.to_status(sent)
        super().__init__(
            grpc_status.code,
            grpc.aio.Metadata(),
            grpc.aio.Metadata(*grpc_status.trailing_metadata),
            details=grpc_status.details,
        )


def test_classes_and_reasons_correspond_one_to_one() -> None:
    ours = {c for c in subclasses(errors.AtelierError) if c.__module__ == errors.__name__}
    assert ours == set(ERROR_CLASSES.values())
    assert set(ERROR_CLASSES) == set(ErrorReason)


@pytest.mark.parametrize("reason", list(ErrorReason))
def test_every_error_can_be_pickled_for_another_process(reason: ErrorReason) -> None:
    sent = make(reason)
    received = pickle.loads(pickle.dumps(sent))
    assert type(received) is type(sent) and str(received) == str(sent) == received.message
    assert (received.fields, received.retry_after_s) == (sent.fields, sent.retry_after_s)


@pytest.mark.parametrize(
    ("proto", "ours"),
    [
        (error_reason_pb2.ErrorReason, ErrorReason),
        (skip_reason_pb2.SkipReason, SkipReason),
        (warning_pb2.WarningCode, WarningCode),
        (service_status_pb2.NetworkRole, NetworkRole),
    ],
)
def test_enums_are_those_of_the_protos(proto: EnumTypeWrapper, ours: type[StrEnum]) -> None:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", proto.DESCRIPTOR.name).upper() + "_"
    names = {name.removeprefix(prefix) for name in proto.DESCRIPTOR.values_by_name}
    assert names - {"UNSPECIFIED"} == {member.name for member in ours} - {"UNSPECIFIED"}


def test_json_codes_of_0_1_are_kept() -> None:
    """A member may be renamed, its code may not."""
    codes = {reason.value for reason in ErrorReason}
    assert {"stage_not_ready", "stage_draining", "stage_unavailable", "bad_picture"} <= codes


@pytest.mark.parametrize("reason", list(ErrorReason))
def test_every_error_survives_the_wire(reason: ErrorReason) -> None:
    error = make(reason)
    back = rpc_errors.from_rpc_error(Call(rpc_errors.to_status(error, "id-1")))
    assert type(back) is type(error)
    if reason is ErrorReason.INVALID_REQUEST:
        assert back.fields == error.fields
    else:
        assert back.retry_after_s == 3.5
    if reason is ErrorReason.INTERNAL:
        assert "a message" not in back.message and "id-1" in back.message
    else:
        assert back.message == "a message"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.ServiceUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.BodyTooLarge),
        (grpc.StatusCode.UNKNOWN, errors.InternalError),
    ],
)
def test_a_status_without_our_details_becomes_the_nearest_error(
    code: grpc.StatusCode, expected: type[errors.AtelierError]
) -> None:
    bare = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="failed to connect")
    assert type(rpc_errors.from_rpc_error(bare)) is expected


def test_violations_beyond_20_are_counted_and_texts_are_truncated() -> None:
    error = InvalidRequest([FieldViolation(f"f{i}", "x" * 5000) for i in range(50)])
    sent = rpc_errors.to_status(error)
    assert sent.ByteSize() < 8192
    back = rpc_errors.from_rpc_error(Call(sent))
    assert len(back.fields) == 21
    assert back.fields[-1].message == "and 30 more"
