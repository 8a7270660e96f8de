"""Messages of `atelier.common.v1` to the runtime's types and back, and enum values of a newer process."""

from dataclasses import replace
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.common.v1 import (
    image_pb2,
    service_status_pb2,
    skip_reason_pb2,
    stage_report_pb2,
    warning_pb2,
)
from atelier_runtime import wire
from atelier_runtime.errors import FieldViolation, InternalError, InvalidRequest
from atelier_runtime.images import EncodedImage, InputImage, OutputFormat
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode
from atelier_runtime.service_status import LoadedNetwork, NetworkRole, ServiceStatus

NEWER: Any = 4711  # a number that no enum of this version has; proto3 keeps it
FORMATS: list[tuple[image_pb2.ImageFormat, OutputFormat]] = [
    (image_pb2.IMAGE_FORMAT_PNG, "png"),
    (image_pb2.IMAGE_FORMAT_JPEG, "jpeg"),
    (image_pb2.IMAGE_FORMAT_WEBP, "webp"),
    (image_pb2.IMAGE_FORMAT_RAW_RGB8, "raw"),
]
STATUS = ServiceStatus(
    version="0.2.0",
    ready=True,
    model_set="demo",
    networks=(LoadedNetwork(NetworkRole.BASE, "tiny-sdxl"), LoadedNetwork(NetworkRole.UPSCALER, "x2")),
    device="cuda:0",
    device_name="a card",
    dtype="bfloat16",
    vram_free_bytes=2**35,
    vram_total_bytes=2**36,
    process_memory_bytes=2**33,
    queue_depth=0,
    queue_capacity=16,
    running=1,
    image_workers=2,
    image_workers_busy=0,
    image_queue_depth=0,
)
LOADING = ServiceStatus("0.2.0", False, "", (), "", "", "", *(None,) * 9)


def sent(message: Any) -> Any:
    """Return a message as the other process receives it."""
    return type(message).FromString(message.SerializeToString())


def test_every_image_format_has_a_row_here() -> None:
    known = set(image_pb2.ImageFormat.values()) - {image_pb2.IMAGE_FORMAT_UNSPECIFIED}
    assert {number for number, _ in FORMATS} == known


@pytest.mark.parametrize(("number", "name"), FORMATS)
def test_images_of_every_format(number: image_pb2.ImageFormat, name: OutputFormat) -> None:
    image = EncodedImage(b"data", name, 40, 30)
    message = sent(wire.image_to_proto(image))
    assert (message.format, message.width_px, message.height_px) == (number, 40, 30)
    assert wire.image_from_proto(message) == image
    assert wire.input_image_from_proto(message) == InputImage(b"data", name, 40, 30)


def test_an_input_image_without_format_and_sizes() -> None:
    assert wire.input_image_from_proto(image_pb2.Image(data=b"data")) == InputImage(b"data", None, None, None)


def test_an_unknown_format_is_refused_in_a_request() -> None:
    message = sent(image_pb2.Image(data=b"data", format=NEWER))
    with pytest.raises(InvalidRequest) as caught:
        wire.input_image_from_proto(message, "restore.image")
    assert [violation.field for violation in caught.value.fields] == ["restore.image.format"]
    assert str(NEWER) in caught.value.fields[0].message


@pytest.mark.parametrize(
    "message",
    [
        image_pb2.Image(data=b"data", format=NEWER),
        image_pb2.Image(data=b"data"),
        image_pb2.Image(format=image_pb2.IMAGE_FORMAT_PNG),
        image_pb2.Image(),
    ],
)
def test_an_image_that_cannot_be_read_is_an_internal_error_in_a_response(message: image_pb2.Image) -> None:
    with pytest.raises(InternalError):
        wire.image_from_proto(sent(message))


def test_an_optional_image() -> None:
    from atelier.restorer.v1 import restorer_service_pb2 as pb

    mask = EncodedImage(b"data", "png", 2, 1)
    assert wire.optional_image_from_proto(pb.RestoreFacesResponse(), "mask") is None
    message = sent(pb.RestoreFacesResponse(mask=wire.image_to_proto(mask)))
    assert wire.optional_image_from_proto(message, "mask") == mask


@pytest.mark.parametrize("quality", [None, 1, 100])
@pytest.mark.parametrize("image_format", [None, *(name for _, name in FORMATS)])
def test_output_options(image_format: OutputFormat | None, quality: int | None) -> None:
    violations: list[FieldViolation] = []
    message = sent(wire.output_to_proto(image_format, quality))
    assert wire.output_from_proto(message, violations) == wire.Output(image_format, quality)
    assert not violations


def test_an_unknown_output_format_is_one_violation_among_others() -> None:
    violations = [FieldViolation("prompt", "is empty")]
    message = sent(image_pb2.OutputOptions(format=NEWER, quality=80))
    assert wire.output_from_proto(message, violations).quality == 80
    assert [violation.field for violation in violations] == ["prompt", "output.format"]


def test_optional_fields() -> None:
    message = image_pb2.Image(width_px=0)
    assert wire.optional(message, "width_px") == 0, "set to its zero"
    assert wire.optional(message, "height_px") is None
    assert wire.set_fields(message, ("width_px", "height_px")) == {"width_px": 0}


@pytest.mark.parametrize("reason", [None, *SkipReason])
def test_skip_reasons(reason: SkipReason | None) -> None:
    assert wire.skip_reason_from_proto(wire.skip_reason_to_proto(reason)) is reason


def test_a_skip_reason_of_a_newer_service_is_a_failure() -> None:
    assert wire.skip_reason_from_proto(NEWER) is SkipReason.FAILED


def test_warnings_of_every_code() -> None:
    warnings = tuple(ResponseWarning(code, f"about {code}") for code in WarningCode)
    messages = [sent(message) for message in wire.warnings_to_proto(warnings)]
    assert wire.warnings_from_proto(messages) == warnings


def test_a_warning_of_a_newer_service_keeps_its_message() -> None:
    message = sent(warning_pb2.Warning(code=NEWER, message="about something new"))
    [warning] = wire.warnings_from_proto([message])
    assert warning == ResponseWarning(WarningCode.UNSPECIFIED, "about something new")


@pytest.mark.parametrize(
    ("enum", "to_proto"),
    [
        (SkipReason, lambda reason: skip_reason_pb2.SkipReason.Name(wire.skip_reason_to_proto(reason))),
        (
            WarningCode,
            lambda code: warning_pb2.WarningCode.Name(
                wire.warnings_to_proto([ResponseWarning(code, "")])[0].code
            ),
        ),
        (
            NetworkRole,
            lambda role: service_status_pb2.NetworkRole.Name(
                wire.status_to_proto(replace(LOADING, networks=(LoadedNetwork(role, ""),))).networks[0].role
            ),
        ),
    ],
)
def test_every_value_is_sent_under_its_own_name(enum: type[StrEnum], to_proto: Any) -> None:
    for member in enum:
        assert to_proto(member).endswith(f"_{member.name}")


@given(
    st.lists(
        st.builds(
            StageReport,
            stage=st.sampled_from(["base", "decode", "paste"]),
            seconds=st.integers(0, 10**15).map(lambda nanoseconds: nanoseconds / 1e9),
            peak_vram_bytes=st.none() | st.integers(0, 2**40),
        ),
        max_size=3,
    )
)
def test_stage_reports(reports: list[StageReport]) -> None:
    messages = [sent(message) for message in wire.stages_to_proto(reports)]
    back = wire.stages_from_proto(messages)
    assert [(r.stage, r.peak_vram_bytes) for r in back] == [(r.stage, r.peak_vram_bytes) for r in reports]
    assert [r.seconds for r in back] == pytest.approx([r.seconds for r in reports], rel=1e-15, abs=0.5e-9)


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"),
    [
        (0.0, 0),
        (0.4e-9, 0),
        (0.6e-9, 1),
        (1.9999999996, 2_000_000_000),  # 1,999,999,999.6 ns
        (0.29, 290_000_000),  # 289,999,999.99... ns as a double
        (3600.25, 3_600_250_000_000),
    ],
)
def test_durations_are_rounded_to_the_nearest_nanosecond(seconds: float, nanoseconds: int) -> None:
    [message] = wire.stages_to_proto([StageReport("base", seconds)])
    assert message.duration.ToNanoseconds() == nanoseconds
    assert not message.HasField("peak_vram_bytes")
    assert wire.stages_from_proto([message]) == (StageReport("base", nanoseconds / 1e9),)


def test_a_stage_of_a_newer_service_keeps_its_name() -> None:
    [report] = wire.stages_from_proto([stage_report_pb2.StageReport(stage="something_new")])
    assert report == StageReport("something_new", 0.0, None)


@pytest.mark.parametrize("status", [STATUS, LOADING], ids=["ready", "loading"])
def test_statuses(status: ServiceStatus) -> None:
    assert wire.status_from_proto(sent(wire.status_to_proto(status))) == status


def test_figures_that_are_0_are_not_absent() -> None:
    idle = replace(STATUS, vram_free_bytes=0, process_memory_bytes=0, queue_depth=0, running=0)
    back = wire.status_from_proto(sent(wire.status_to_proto(idle)))
    assert (back.vram_free_bytes, back.process_memory_bytes, back.queue_depth, back.running) == (0, 0, 0, 0)


@pytest.mark.parametrize("role", [None, *NetworkRole])
def test_networks_of_every_role(role: NetworkRole | None) -> None:
    status = replace(STATUS, networks=(LoadedNetwork(role, "a network"),))
    assert wire.status_from_proto(sent(wire.status_to_proto(status))) == status


@pytest.mark.parametrize("number", [NEWER, service_status_pb2.NETWORK_ROLE_UNSPECIFIED])
def test_a_network_of_an_unknown_role_keeps_its_name_and_takes_no_role(number: Any) -> None:
    message = wire.status_to_proto(STATUS)
    message.networks.add(role=number, name="a newer network")
    status = wire.status_from_proto(sent(message))
    assert status.networks[-1] == LoadedNetwork(None, "a newer network")
    assert status.network(NetworkRole.BASE) == "tiny-sdxl"
    assert status.network(NetworkRole.REFINER) is None
