"""Between the core's values and the services' messages: `x_to_proto` writes, `x_from_proto` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from atelier.common.v1 import image_pb2
from atelier.generator.v1 import generator_service_pb2 as generator_pb
from atelier.restorer.v1 import restorer_service_pb2 as restorer_pb
from atelier_gateway.backends.large_request import serialize_with, serialize_with_files
from atelier_gateway.core.estimates import EstimatedPass, GeneratorEstimate
from atelier_gateway.core.offer import GeneratorOffer, OfferedLora, OfferedSampler
from atelier_gateway.core.values import (
    CompareSpec,
    Detection,
    DetectSpec,
    DrawnPart,
    Face,
    FaceEdit,
    FaceOutcome,
    FaceRule,
    GeneratedImage,
    GenerateSpec,
    HiresPass,
    IdentityMode,
    Look,
    MaskKind,
    Progress,
    PromptSyntax,
    Restoration,
    RestoreSpec,
    Sampling,
)
from atelier_runtime import wire
from atelier_runtime.cost_model import Cost
from atelier_runtime.errors import InternalError
from atelier_runtime.images import EncodedImage, InputImage, OutputFormat
from atelier_runtime.sizes import Size

_RULES: Mapping[FaceRule, restorer_pb.FaceRule] = {
    "all": restorer_pb.FACE_RULE_ALL,
    "largest": restorer_pb.FACE_RULE_LARGEST,
    "center": restorer_pb.FACE_RULE_CENTER,
}
_MASKS: Mapping[MaskKind, restorer_pb.MaskKind] = {
    "feather": restorer_pb.MASK_KIND_FEATHER,
    "parse": restorer_pb.MASK_KIND_PARSE,
}
_LOOKS: Mapping[Look, restorer_pb.Look] = {
    "auto": restorer_pb.LOOK_AUTO,
    "once": restorer_pb.LOOK_ONCE,
    "thorough": restorer_pb.LOOK_THOROUGH,
}
_IDENTITY_MODES: Mapping[IdentityMode, restorer_pb.IdentityMode] = {
    "off": restorer_pb.IDENTITY_MODE_OFF,
    "report": restorer_pb.IDENTITY_MODE_REPORT,
    "guard": restorer_pb.IDENTITY_MODE_GUARD,
}
_DRAWN_PARTS: Mapping[DrawnPart, generator_pb.MaskKind] = {
    "white": generator_pb.MASK_KIND_WHITE,
    "black": generator_pb.MASK_KIND_BLACK,
    "transparent": generator_pb.MASK_KIND_TRANSPARENT,
}
_PROMPT_SYNTAXES: Mapping[PromptSyntax, generator_pb.PromptSyntax] = {
    "plain": generator_pb.PROMPT_SYNTAX_PLAIN,
    "weighted": generator_pb.PROMPT_SYNTAX_WEIGHTED,
}

_NESTED = re.compile(r"^restore\.|(?<=\])\.face(?=\.|$)")  # restore.upscale, faces[2].face.box
_SPEC_FIELDS = {
    "width_px": "width",
    "height_px": "height",
    "detect_size_px": "detect_size",
    "image.format": "image",
    "output.format": "output_format",
    "output.quality": "quality",
    "output.metadata": "metadata",
    "hires_pass.width_px": "hires_pass.width",
    "hires_pass.height_px": "hires_pass.height",
}


def field_from_proto(field: str) -> str:
    """Return the spec's name of a field that a service refused."""
    field = _NESTED.sub("", field)
    return _SPEC_FIELDS.get(field, field)


# --- the generator ---


def generate_spec_to_proto(spec: GenerateSpec) -> generator_pb.GenerateImageRequest:
    """Write the generator's part of a spec."""
    return generator_pb.GenerateImageRequest(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        width_px=spec.width,
        height_px=spec.height,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        sampler=spec.sampler,
        schedule=spec.schedule,
        seed=spec.seed,
        use_refiner=spec.use_refiner,
        hires_fix=spec.hires_fix,
        use_upscaler=spec.use_upscaler,
        lanczos_scale=spec.lanczos_scale,
        prompt_syntax=None if spec.prompt_syntax is None else _PROMPT_SYNTAXES[spec.prompt_syntax],
        output=wire.output_to_proto(spec.output_format, spec.quality, spec.metadata),
        loras=[generator_pb.Lora(name=lora.name, weight=lora.weight) for lora in spec.loras],
        num_images=spec.num_images,
        strength=spec.strength,
        image=spec.image,
        mask=spec.mask,
        preview_interval_steps=spec.preview_interval_steps,
        hires_pass=None if spec.hires_pass is None else _hires_pass_to_proto(spec.hires_pass),
        refiner_strength=spec.refiner_strength,
        mask_kind=None if spec.mask_kind is None else _DRAWN_PARTS[spec.mask_kind],
        mask_blur_px=spec.mask_blur_px,
    )


def _hires_pass_to_proto(hires_pass: HiresPass) -> generator_pb.HiresPass:
    return generator_pb.HiresPass(
        width_px=hires_pass.width,
        height_px=hires_pass.height,
        strength=hires_pass.strength,
        num_inference_steps=hires_pass.num_inference_steps,
    )


def generate_request(spec: GenerateSpec) -> generator_pb.GenerateImageRequest | bytes:
    """Return the request of a generation, serialized if there are images in it."""
    files = {name: data for name in ("image", "mask") if (data := getattr(spec, name)) is not None}
    message = generate_spec_to_proto(replace(spec, image=None, mask=None))
    return serialize_with_files(message, files) if files else message


def progress_from_proto(message: generator_pb.GenerateImageProgress) -> Progress:
    """Read a progress event."""
    return Progress(message.stage, message.step, message.total_steps, tuple(message.previews))


def generated_image_from_proto(
    message: generator_pb.GenerateImageResult, spec: GenerateSpec
) -> GeneratedImage:
    """Read the generator's result."""
    return GeneratedImage(
        image=_image_from_proto(message.image, spec.output_format),
        seed=message.seed,
        model_set=message.model_set,
        sampling=_sampling_from_proto(message),
        refiner_applied=message.refiner_applied,
        refiner_reason=wire.skip_reason_from_proto(message.refiner_reason),
        hires_fix_applied=message.hires_fix_applied,
        upscaler=message.upscaler,
        warnings=wire.warnings_from_proto(message.warnings),
        stages=wire.stages_from_proto(message.stages),
        model_set_hash=message.model_set_hash,
        device=message.drawn_on,
        prompt_tokens=message.prompt_tokens,
        hires_strength=wire.optional(message, "hires_strength"),
    )


def offer_from_proto(message: generator_pb.GetStatusResponse) -> GeneratorOffer:
    """Read what the generator offers."""
    sampling = message.defaults
    return GeneratorOffer(
        status=wire.status_from_proto(message.status),
        samplers=tuple(
            OfferedSampler(each.name, tuple(each.schedules), tuple(each.aliases)) for each in message.samplers
        ),
        loras=tuple(OfferedLora(each.name, tuple(each.trigger_words)) for each in message.loras),
        defaults=Sampling(
            sampling.sampler, sampling.schedule, sampling.num_inference_steps, sampling.guidance_scale
        )
        if message.HasField("defaults")
        else None,
    )


def estimate_from_proto(message: generator_pb.EstimateImageResponse) -> GeneratorEstimate:
    """Read what the generator expects a request to take."""
    return GeneratorEstimate(
        passes=tuple(
            EstimatedPass(each.stage, Size(each.width_px, each.height_px), each.steps)
            for each in message.passes
        ),
        stages=tuple((each.stage, _cost_from_proto(each.duration)) for each in message.stages),
        cost=replace(
            _cost_from_proto(message.duration),
            observations=message.observations,
            peak_bytes=wire.optional(message, "peak_vram_bytes"),
        ),
        queue_wait_s=wire.duration_from_proto(message.queue_wait),
        size=Size(message.width_px, message.height_px),
        model_set=message.model_set,
        sampling=_sampling_from_proto(message),
        warnings=wire.warnings_from_proto(message.warnings),
    )


def _sampling_from_proto(
    message: generator_pb.GenerateImageResult | generator_pb.EstimateImageResponse,
) -> Sampling:
    return Sampling(
        sampler=message.sampler,
        schedule=message.schedule,
        num_inference_steps=message.num_inference_steps,
        guidance_scale=message.guidance_scale,
        strength=wire.optional(message, "strength"),
    )


def _cost_from_proto(message: generator_pb.EstimatedDuration) -> Cost:
    return Cost(
        wire.duration_from_proto(message.expected),
        wire.duration_from_proto(message.low),
        wire.duration_from_proto(message.high),
    )


# --- the restorer ---


def restore_spec_to_proto(spec: RestoreSpec) -> restorer_pb.RestoreFacesRequest:
    """Write a restoration."""
    return restorer_pb.RestoreFacesRequest(
        image=wire.image_to_proto(spec.image),
        fidelity=spec.fidelity,
        faces=[face_edit_to_proto(edit) for edit in spec.faces],
        rule=None if spec.rule is None else _RULES[spec.rule],
        max_faces=spec.max_faces,
        min_face_px=spec.min_face_px,
        max_face_px=spec.max_face_px,
        min_confidence=spec.min_confidence,
        detect_size_px=spec.detect_size,
        look=None if spec.look is None else _LOOKS[spec.look],
        max_sharpness=spec.max_sharpness,
        visibility=spec.visibility,
        upscale=spec.upscale,
        use_upscaler=spec.use_upscaler,
        aligned=spec.aligned,
        mask=None if spec.mask is None else _MASKS[spec.mask],
        output=wire.output_to_proto(spec.output_format, spec.quality, spec.metadata),
        return_mask=spec.return_mask,
        return_crops=spec.return_crops,
        match_tone=spec.match_tone,
        identity=None if spec.identity is None else _IDENTITY_MODES[spec.identity],
        min_similarity=spec.min_similarity,
    )


def restore_request(spec: RestoreSpec) -> bytes:
    """Return the serialized request of a restoration."""
    message = restore_spec_to_proto(replace(spec, image=_without_data(spec.image)))
    return serialize_with(message, ("image", "data"), spec.image.data)


def compare_request(spec: CompareSpec) -> bytes:
    """Return the serialized request of a comparison."""
    image = spec.restore.image
    restore = replace(spec.restore, image=_without_data(image))
    message = compare_spec_to_proto(replace(spec, restore=restore))
    return serialize_with(message, ("restore", "image", "data"), image.data)


def detect_request(spec: DetectSpec) -> bytes:
    """Return the serialized request of a detection."""
    message = detect_spec_to_proto(replace(spec, image=_without_data(spec.image)))
    return serialize_with(message, ("image", "data"), spec.image.data)


def _without_data(image: InputImage) -> InputImage:
    return replace(image, data=b"")


def compare_spec_to_proto(spec: CompareSpec) -> restorer_pb.CompareFidelitiesRequest:
    """Write a comparison of fidelities."""
    return restorer_pb.CompareFidelitiesRequest(
        restore=restore_spec_to_proto(spec.restore), fidelities=spec.fidelities
    )


def detect_spec_to_proto(spec: DetectSpec) -> restorer_pb.DetectFacesRequest:
    """Write a detection."""
    return restorer_pb.DetectFacesRequest(
        image=wire.image_to_proto(spec.image),
        min_confidence=spec.min_confidence,
        detect_size_px=spec.detect_size,
        look=None if spec.look is None else _LOOKS[spec.look],
    )


def face_edit_to_proto(edit: FaceEdit) -> restorer_pb.FaceEdit:
    """Write what to do with one face."""
    return restorer_pb.FaceEdit(
        face=face_to_proto(edit.face), fidelity=edit.fidelity, visibility=edit.visibility, skip=edit.skip
    )


def face_to_proto(face: Face) -> restorer_pb.Face:
    """Write a face."""
    x1, y1, x2, y2 = face.box
    return restorer_pb.Face(
        index=face.index,
        box=restorer_pb.Box(x1_px=x1, y1_px=y1, x2_px=x2, y2_px=y2),
        landmarks=[restorer_pb.Point(x_px=x, y_px=y) for x, y in face.landmarks],
        confidence=face.confidence,
        size_px=face.size_px,
        sharpness=face.sharpness,
        roll_degrees=face.roll_degrees,
        orientation_unclear=face.orientation_unclear,
    )


def face_from_proto(message: restorer_pb.Face) -> Face:
    """Read a face."""
    box = message.box
    return Face(
        index=message.index,
        box=(box.x1_px, box.y1_px, box.x2_px, box.y2_px),
        landmarks=tuple((point.x_px, point.y_px) for point in message.landmarks),
        confidence=message.confidence,
        size_px=wire.optional(message, "size_px"),
        sharpness=wire.optional(message, "sharpness"),
        roll_degrees=wire.optional(message, "roll_degrees"),
        orientation_unclear=message.orientation_unclear,
    )


def restoration_from_proto(message: restorer_pb.RestoreFacesResponse, spec: RestoreSpec) -> Restoration:
    """Read a restored image. Raises `InternalError` if it is not what was requested."""
    if spec.identity == "guard":
        wire.check_guarded(message)
    return Restoration(
        image=_image_from_proto(message.image, spec.output_format),
        mask=wire.optional_image_from_proto(message, "mask"),
        faces=tuple(face_outcome_from_proto(face) for face in message.faces),
        face_restoration_applied=message.face_restoration_applied,
        face_restoration_reason=wire.skip_reason_from_proto(message.reason),
        tone_matched=message.tone_matched,
        upscale_applied=message.upscale_applied,
        upscaler=message.upscaler,
        model_set=message.model_set,
        warnings=wire.warnings_from_proto(message.warnings),
        stages=wire.stages_from_proto(message.stages),
        min_similarity=wire.optional(message, "min_similarity"),
        model_set_hash=message.model_set_hash,
        device=message.restored_on,
        mask_sha256=message.mask_sha256,
    )


def face_outcome_from_proto(message: restorer_pb.FaceResult) -> FaceOutcome:
    """Read the outcome for one face."""
    return FaceOutcome(
        face=face_from_proto(message.face),
        restored=message.restored,
        reason=wire.skip_reason_from_proto(message.reason),
        fidelity=wire.optional(message, "fidelity"),
        crop_before=wire.optional_image_from_proto(message, "crop_before"),
        crop_after=wire.optional_image_from_proto(message, "crop_after"),
        fidelity_requested=wire.optional(message, "fidelity_requested"),
        identity_similarity=wire.optional(message, "identity_similarity"),
        identity_unknown=message.identity_unknown,
        visibility=wire.optional(message, "visibility"),
        visibility_requested=wire.optional(message, "visibility_requested"),
    )


def detection_from_proto(message: restorer_pb.DetectFacesResponse) -> Detection:
    """Read the faces that were found."""
    return Detection(
        faces=tuple(face_from_proto(face) for face in message.faces),
        width=message.width_px,
        height=message.height_px,
        stages=wire.stages_from_proto(message.stages),
        warnings=wire.warnings_from_proto(message.warnings),
    )


def _image_from_proto(message: image_pb2.Image, requested: OutputFormat | None) -> EncodedImage:
    """Read a response's image. Raises `InternalError` for another format than the one requested."""
    image = wire.image_from_proto(message)
    if image.format != requested if requested is not None else image.format == "raw":
        raise InternalError(f"A service sent {image.format}; {requested or 'a file'} was requested.")
    return image
