"""Every field of a spec reaches its message, and refused fields come back with the spec's names."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from atelier.common.v1 import image_pb2
from atelier.generator.v1 import generator_service_pb2 as generator_pb
from atelier.restorer.v1 import restorer_service_pb2 as restorer_pb
from atelier_gateway.backends import convert
from atelier_gateway.core.values import (
    CompareSpec,
    DetectSpec,
    Face,
    FaceEdit,
    GenerateSpec,
    HiresPass,
    Lora,
    RestoreSpec,
)
from atelier_runtime.errors import InternalError
from atelier_runtime.images import InputImage

IMAGE = InputImage(b"a file")
FACE = Face(3, (1, 2, 3, 4), ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5)), 0.5, 9.0, 8.0, -7.0)

RESTORE_OPTIONS: dict[str, Any] = {
    "fidelity": 0.0,
    "faces": (FaceEdit(FACE, fidelity=0.5, visibility=0.0, skip=True),),
    "rule": "largest",
    "max_faces": 0,
    "min_face_px": 1.0,
    "max_face_px": 2.0,
    "min_confidence": 0.0,
    "detect_size": 0,
    "look": "once",
    "max_sharpness": 3.0,
    "visibility": 0.0,
    "upscale": 2,
    "use_upscaler": False,
    "aligned": False,
    "mask": "parse",
    "match_tone": False,
    "identity": "guard",
    "min_similarity": 0.0,
    "output_format": "webp",
    "quality": 1,
    "metadata": "none",
    "return_mask": False,
    "return_crops": False,
}


def set_names(message: Any) -> set[str]:
    return {field.name for field, _ in message.ListFields()}


def test_what_is_none_stays_unset() -> None:
    restore = convert.restore_spec_to_proto(RestoreSpec(IMAGE))
    assert restore == restorer_pb.RestoreFacesRequest(
        image=image_pb2.Image(data=b"a file"), output=image_pb2.OutputOptions()
    )
    generate = convert.generate_spec_to_proto(GenerateSpec("x"))
    assert set_names(generate) == {"prompt", "output"}
    assert set_names(convert.detect_spec_to_proto(DetectSpec(IMAGE))) == {"image"}


def test_every_option_of_a_restoration_is_sent_even_if_it_is_zero() -> None:
    assert set(RESTORE_OPTIONS) == {field.name for field in fields(RestoreSpec)} - {"image"}
    message = convert.restore_spec_to_proto(RestoreSpec(IMAGE, **RESTORE_OPTIONS))
    assert set_names(message) == {field.name for field in restorer_pb.RestoreFacesRequest.DESCRIPTOR.fields}
    assert (message.output.format, message.output.quality) == (image_pb2.IMAGE_FORMAT_WEBP, 1)
    assert message.output.metadata == image_pb2.METADATA_NONE
    assert (message.rule, message.mask) == (restorer_pb.FACE_RULE_LARGEST, restorer_pb.MASK_KIND_PARSE)
    assert message.look == restorer_pb.LOOK_ONCE
    [edit] = message.faces
    assert (edit.fidelity, edit.HasField("visibility"), edit.skip) == (0.5, True, True)


def test_every_option_of_a_generation_is_sent_even_if_it_is_zero() -> None:
    spec = GenerateSpec(
        "x",
        negative_prompt="",
        width=256,
        height=264,
        num_inference_steps=1,
        guidance_scale=0.0,
        seed=0,
        use_refiner=False,
        hires_fix=False,
        use_upscaler=False,
        lanczos_scale=1.0,
        prompt_syntax="plain",
        sampler="euler",
        schedule="default",
        loras=(Lora("ink", 0.0),),
        num_images=1,
        image=b"",
        mask=b"",
        strength=0.0,
        mask_kind="black",
        mask_blur_px=0.0,
        refiner_strength=0.5,
        hires_pass=HiresPass(256, 264),
    )
    message = convert.generate_spec_to_proto(spec)
    sent = {field.name for field in generator_pb.GenerateImageRequest.DESCRIPTOR.fields}
    assert set_names(message) == sent - {"preview_interval_steps"}
    assert (message.width_px, message.height_px) == (256, 264)
    [lora] = message.loras
    assert lora.name == "ink" and lora.HasField("weight")


@pytest.mark.parametrize(("image", "mask"), [(b"i", None), (b"i" * 10**6, b"m" * 1000)])
def test_images_are_serialized_with_the_rest(image: bytes, mask: bytes | None) -> None:
    spec = GenerateSpec("x", strength=0.25, image=image, mask=mask)
    sent = convert.generate_request(spec)
    assert isinstance(sent, bytes)
    message = generator_pb.GenerateImageRequest.FromString(sent)
    assert message == convert.generate_spec_to_proto(spec)
    assert not isinstance(convert.generate_request(GenerateSpec("x")), bytes)


@pytest.mark.parametrize(
    ("name", "number"),
    [("plain", generator_pb.PROMPT_SYNTAX_PLAIN), ("weighted", generator_pb.PROMPT_SYNTAX_WEIGHTED)],
)
def test_prompt_syntaxes(name: Any, number: generator_pb.PromptSyntax) -> None:
    assert convert.generate_spec_to_proto(GenerateSpec("x", prompt_syntax=name)).prompt_syntax == number


def test_a_face_comes_back_unchanged() -> None:
    assert convert.face_from_proto(convert.face_to_proto(FACE)) == FACE
    bare = Face(0, FACE.box, FACE.landmarks, 1.0)
    assert convert.face_from_proto(convert.face_to_proto(bare)) == bare


def test_a_comparison() -> None:
    message = convert.compare_spec_to_proto(CompareSpec(RestoreSpec(IMAGE, upscale=2), (0.0, 1.0)))
    assert list(message.fidelities) == [0.0, 1.0] and message.restore.upscale == 2


@pytest.mark.parametrize(
    ("service", "spec"),
    [
        ("width_px", "width"),
        ("output.format", "output_format"),
        ("output.quality", "quality"),
        ("image.format", "image"),
        ("image", "image"),
        ("detect_size_px", "detect_size"),
        ("use_upscaler", "use_upscaler"),
        ("faces[2].face.box", "faces[2].box"),
        ("faces[2].face", "faces[2]"),
        ("restore.upscale", "upscale"),
        ("restore.image.format", "image"),
        ("restore.faces[0].face.box", "faces[0].box"),
        ("...", "..."),
    ],
)
def test_names_of_fields(service: str, spec: str) -> None:
    assert convert.field_from_proto(service) == spec


@pytest.mark.parametrize("requested", [None, "png", "raw"])
def test_an_image_in_another_format_than_requested_is_an_internal_error(requested: Any) -> None:
    sent = image_pb2.IMAGE_FORMAT_JPEG if requested else image_pb2.IMAGE_FORMAT_RAW_RGB8
    message = restorer_pb.RestoreFacesResponse(image=image_pb2.Image(data=b"x", format=sent))
    with pytest.raises(InternalError):
        convert.restoration_from_proto(message, RestoreSpec(IMAGE, output_format=requested))


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 127, b"x" * 128, b"x" * 70_000])
def test_a_serialized_request_is_the_message_with_its_image(data: bytes) -> None:
    image = InputImage(data, "raw", 300, 2)
    restore, detect = RestoreSpec(image, **RESTORE_OPTIONS), DetectSpec(image, min_confidence=0.5)
    compare = CompareSpec(restore, (0.0, 0.3))
    for serialized, expected in (
        (convert.restore_request(restore), convert.restore_spec_to_proto(restore)),
        (convert.compare_request(compare), convert.compare_spec_to_proto(compare)),
        (convert.detect_request(detect), convert.detect_spec_to_proto(detect)),
    ):
        assert type(expected).FromString(serialized) == expected


def test_a_guard_that_the_restorer_does_not_know_is_no_success() -> None:
    """Of an older version: the option is unknown to it, and every face was restored."""
    file = image_pb2.Image(data=b"x", format=image_pb2.IMAGE_FORMAT_PNG)
    old = restorer_pb.RestoreFacesResponse(image=file, face_restoration_applied=True)
    with pytest.raises(InternalError, match="identity: guard"):
        convert.restoration_from_proto(old, RestoreSpec(IMAGE, identity="guard"))
    assert convert.restoration_from_proto(old, RestoreSpec(IMAGE)).face_restoration_applied
    old.min_similarity = 0.0
    guarded = convert.restoration_from_proto(old, RestoreSpec(IMAGE, identity="guard"))
    assert guarded.min_similarity == 0.0
