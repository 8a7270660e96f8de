from typing import Any

import numpy as np
import pytest
import torch

from atelier.common.v1 import image_pb2, skip_reason_pb2, warning_pb2
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_generator import convert
from atelier_generator.generation import Generation
from atelier_generator.lora_tags import Lora
from atelier_generator.request import GenerateRequest, HiresPass
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import EncodedImage
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode
from atelier_runtime.service import LoadedModels

LOADED = LoadedModels("tiny", "5e1f", (), torch.device("cpu"), torch.bfloat16)


def test_unset_options_are_the_defaults():
    assert convert.request_from_proto(pb.GenerateImageRequest(prompt="a cat")) == GenerateRequest("a cat")


def test_options_set_to_zero_are_not_unset():
    message = pb.GenerateImageRequest(
        prompt="a cat", guidance_scale=0.0, seed=0, use_refiner=False, use_upscaler=False
    )
    request = convert.request_from_proto(message)
    assert (request.guidance_scale, request.seed) == (0.0, 0)
    assert (request.use_refiner, request.use_upscaler) == (False, False)


def test_a_hires_pass_is_read():
    message = pb.GenerateImageRequest(prompt="a cat", hires_pass=pb.HiresPass(width_px=1536, height_px=1024))
    assert convert.request_from_proto(message).hires_pass == HiresPass(1536, 1024, 0.35, 25)
    message.hires_pass.strength, message.hires_pass.num_inference_steps = 0.5, 12
    assert convert.request_from_proto(message).hires_pass == HiresPass(1536, 1024, 0.5, 12)


def test_what_is_unknown_is_refused():
    unknown: Any = 9
    message = pb.GenerateImageRequest(prompt="a cat", image=b"i", mask=b"m", mask_kind=unknown)
    message.output.metadata = unknown
    with pytest.raises(InvalidRequest) as caught:
        convert.request_from_proto(message)
    assert {v.field for v in caught.value.fields} == {"mask_kind", "output.metadata"}


@pytest.mark.parametrize("upscaling", [{"hires_fix": True}, {"lanczos_scale": 2.5}])
def test_every_option_is_read(upscaling):
    options = {
        "negative_prompt": "a dog",
        "width_px": 512,
        "height_px": 768,
        "num_inference_steps": 7,
        "guidance_scale": 3.25,
        "seed": 2**53 - 8,
        "use_refiner": False,
        "use_upscaler": False,
        "sampler": "euler",
        "schedule": "karras",
        "prompt_syntax": pb.PROMPT_SYNTAX_WEIGHTED,
        "num_images": 8,
        "preview_interval_steps": 5,
        "refiner_strength": 0.25,
        **upscaling,
    }
    output = image_pb2.OutputOptions(
        format=image_pb2.IMAGE_FORMAT_WEBP, quality=55, metadata=image_pb2.METADATA_NONE
    )
    loras = [pb.Lora(name="ink"), pb.Lora(name="charcoal", weight=0.0)]
    message = pb.GenerateImageRequest(prompt="a cat", output=output, loras=loras, **options)
    from_image = {"image", "mask", "strength", "mask_kind", "mask_blur_px"}
    unset = {"prompt", "output", "loras", "hires_fix", "hires_pass", "lanczos_scale", *from_image, *options}
    assert unset == set(pb.GenerateImageRequest.DESCRIPTOR.fields_by_name), (
        "a field that this test does not cover"
    )
    options["prompt_syntax"] = "weighted"
    named = (Lora("ink", 1.0), Lora("charcoal", 0.0))
    expected = GenerateRequest(
        "a cat", output_format="webp", quality=55, metadata="none", loras=named, **options
    )
    wire = message.SerializeToString()
    assert convert.request_from_proto(pb.GenerateImageRequest.FromString(wire)) == expected


def test_what_an_image_is_drawn_from_is_read():
    files: dict[str, Any] = {"image": b"an image", "mask": b"a mask"}
    message = pb.GenerateImageRequest(
        prompt="a cat", strength=0.0, mask_kind=pb.MASK_KIND_TRANSPARENT, mask_blur_px=2.5, **files
    )
    request = convert.request_from_proto(message)
    assert request == GenerateRequest(
        "a cat", strength=0.0, mask_kind="transparent", mask_blur_px=2.5, **files
    )
    assert request.from_image and request.masked and request.own_size
    assert "an image" not in repr(request), "files are not for logs"


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({"strength": 0.5}, {"strength": "requires an image"}),
        ({"mask": b"m"}, {"mask": "requires an image"}),
        ({"image": b"i", "strength": 1.5}, {"strength": "from 0 to 1"}),
        ({"image": b"i", "strength": float("nan")}, {"strength": "from 0 to 1"}),
        ({"image": b"i", "hires_fix": True}, {"hires_fix": "cannot be used with an image"}),
        ({"image": b"i", "width_px": 512}, {"height_px": "is required with width_px"}),
        ({"image": b"i", "height_px": 512}, {"width_px": "is required with height_px"}),
        ({"image": b"i", "width_px": 516, "height_px": 512}, {"width_px": "multiple of 8"}),
    ],
)
def test_what_does_not_go_with_an_image_is_named(options, problems):
    with pytest.raises(InvalidRequest) as caught:
        convert.request_from_proto(pb.GenerateImageRequest(prompt="a cat", **options))
    found = {violation.field: violation.message for violation in caught.value.fields}
    assert found.keys() == problems.keys()
    assert all(part in found[field] for field, part in problems.items())


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


def test_an_unknown_format_is_refused_together_with_the_other_fields():
    output = image_pb2.OutputOptions.FromString(b"\x08\x63")  # format 99, as a newer client would send it
    message = pb.GenerateImageRequest(prompt="a cat", width_px=0, output=output)
    with pytest.raises(InvalidRequest) as caught:
        convert.request_from_proto(message)
    assert {violation.field for violation in caught.value.fields} == {"output.format", "width_px"}


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (pb.PROMPT_SYNTAX_UNSPECIFIED, "plain"),
        (pb.PROMPT_SYNTAX_PLAIN, "plain"),
        (pb.PROMPT_SYNTAX_WEIGHTED, "weighted"),
    ],
)
def test_prompt_syntaxes(number, name):
    assert number in pb.PromptSyntax.values()
    message = pb.GenerateImageRequest(prompt="a cat", prompt_syntax=number)
    assert convert.request_from_proto(message).prompt_syntax == name


def test_an_unknown_prompt_syntax_is_refused_together_with_the_other_fields():
    message = pb.GenerateImageRequest.FromString(b"\x88\x01\x63")  # field 17: 99; no prompt
    with pytest.raises(InvalidRequest) as caught:
        convert.request_from_proto(message)
    assert {violation.field for violation in caught.value.fields} == {"prompt", "prompt_syntax"}


@pytest.mark.parametrize("reason", [None, *SkipReason])
def test_a_result_reports_how_the_image_was_made(reason):
    generation = Generation(
        pixels=np.zeros((24, 16, 3), np.uint8),
        seed=2**53 - 1,
        num_inference_steps=12,
        guidance_scale=4.5,
        sampler="dpmpp_2m",
        schedule="karras",
        refiner_applied=reason is None,
        refiner_reason=reason,
        hires_fix_applied=True,
        upscaler="x2",
        warnings=(
            ResponseWarning(WarningCode.SIZE_LIMITED, "one"),
            ResponseWarning(WarningCode.MEMORY_FALLBACK, "two"),
        ),
        stages=(),
        prompt_tokens=7,
        hires_strength=0.4,
    )
    stages = [StageReport("base", 1.25), StageReport("encode", 0.5, 7)]
    image = EncodedImage(b"data", "webp", 16, 24)
    result = convert.result_to_proto(generation, image, stages, LOADED).result
    assert (result.image.data, result.image.format) == (b"data", image_pb2.IMAGE_FORMAT_WEBP)
    assert (result.image.width_px, result.image.height_px) == (16, 24)
    assert (result.num_inference_steps, result.guidance_scale) == (12, 4.5)
    assert (result.sampler, result.schedule) == ("dpmpp_2m", "karras")
    name = f"SKIP_REASON_{reason.name if reason else 'UNSPECIFIED'}"
    assert skip_reason_pb2.SkipReason.Name(result.refiner_reason) == name
    assert result.seed == 2**53 - 1
    assert result.refiner_applied == (reason is None)
    assert result.hires_fix_applied and result.upscaler == "x2" and result.model_set == "tiny"
    assert (result.model_set_hash, result.prompt_tokens) == ("5e1f", 7)
    assert result.hires_strength == 0.4
    assert result.drawn_on.endswith(", bfloat16")
    assert [(warning.code, warning.message) for warning in result.warnings] == [
        (warning_pb2.WARNING_CODE_SIZE_LIMITED, "one"),
        (warning_pb2.WARNING_CODE_MEMORY_FALLBACK, "two"),
    ]
    base, encode = result.stages
    assert (base.stage, base.duration.ToNanoseconds()) == ("base", 1_250_000_000)
    assert not base.HasField("peak_vram_bytes") and encode.peak_vram_bytes == 7
