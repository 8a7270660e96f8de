import dataclasses

import numpy as np
import pytest

from atelier.common.v1 import error_reason_pb2, image_pb2
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_generator import convert
from atelier_generator.pipeline import Generation
from atelier_generator.request import GenerateRequest
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import SkipReason


def test_unset_options_are_the_defaults():
    assert convert.request_from_proto(pb.GenerateImageRequest(prompt="a cat")) == GenerateRequest("a cat")


def test_options_set_to_zero_are_not_unset():
    message = pb.GenerateImageRequest(
        prompt="a cat", guidance_scale=0.0, seed=0, use_refiner=False, use_upscaler=False, width_px=0
    )
    request = convert.request_from_proto(message)
    assert (request.guidance_scale, request.seed) == (0.0, 0)
    assert (request.use_refiner, request.use_upscaler, request.width_px) == (False, False, 0)


FULL = GenerateRequest(
    prompt="a cat",
    negative_prompt="a dog",
    width_px=512,
    height_px=768,
    num_inference_steps=7,
    guidance_scale=3.25,
    seed=2**53 - 1,
    use_refiner=False,
    hires_fix=True,
    use_upscaler=False,
    hires_fix_simple=True,
    hires_scale=2.5,
    output_format="webp",
    quality=55,
)


def test_every_option_survives_the_wire():
    unset = GenerateRequest("")
    for field in dataclasses.fields(GenerateRequest):
        assert getattr(FULL, field.name) != getattr(unset, field.name), "an option left at its default"
    wire = convert.request_to_proto(FULL).SerializeToString()
    assert convert.request_from_proto(pb.GenerateImageRequest.FromString(wire)) == FULL


def test_every_field_of_the_message_is_filled_in():
    message = convert.request_to_proto(FULL)
    assert {field.name for field, _ in message.ListFields()} == set(message.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (image_pb2.IMAGE_FORMAT_UNSPECIFIED, "png"),
        (image_pb2.IMAGE_FORMAT_PNG, "png"),
        (image_pb2.IMAGE_FORMAT_JPEG, "jpeg"),
        (image_pb2.IMAGE_FORMAT_WEBP, "webp"),
        (image_pb2.IMAGE_FORMAT_RAW_RGB8, "raw"),
    ],
)
def test_formats(number, name):
    message = pb.GenerateImageRequest(prompt="a cat", output=image_pb2.OutputOptions(format=number))
    assert convert.request_from_proto(message).output_format == name


def test_a_format_from_the_future_is_refused():
    message = pb.GenerateImageRequest(prompt="a cat", output=image_pb2.OutputOptions(format=99))
    with pytest.raises(InvalidRequest) as caught:
        convert.request_from_proto(message).check(10**8)
    assert [violation.field for violation in caught.value.fields] == ["output.format"]


@pytest.mark.parametrize("reason", [None, *SkipReason])
def test_results_say_what_was_done(reason):
    drawing = Generation(
        picture=np.zeros((24, 16, 3), np.uint8),
        refiner_applied=reason is None,
        refiner_reason=reason,
        hires_fix_applied=True,
        upscaler="x2",
        warnings=("one", "two"),
        stages=(),
    )
    stages = [StageReport("base", 1.25), StageReport("encode", 0.5, 7)]
    result = convert.result_to_proto(FULL, drawing, b"data", stages, "tiny").result
    assert (result.image.data, result.image.format) == (b"data", image_pb2.IMAGE_FORMAT_WEBP)
    assert (result.image.width_px, result.image.height_px) == (16, 24)
    name = f"SKIP_REASON_{reason.name if reason else 'UNSPECIFIED'}"
    assert error_reason_pb2.SkipReason.Name(result.refiner_reason) == name
    assert result.refiner_applied == (reason is None)
    assert result.hires_fix_applied and result.upscaler == "x2" and result.model_set == "tiny"
    assert list(result.warnings) == ["one", "two"]
    base, encode = result.stages
    assert (base.stage, base.duration.ToNanoseconds()) == ("base", 1_250_000_000)
    assert not base.HasField("peak_vram_bytes") and encode.peak_vram_bytes == 7
