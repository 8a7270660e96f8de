"""Converts between the messages of `atelier.generator.v1` and this service's own types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_generator.estimates import Estimate
from atelier_generator.generation import Generation, Progress
from atelier_generator.lora_folder import LoraFolder
from atelier_generator.lora_tags import Lora
from atelier_generator.prompt_syntax import PromptSyntax
from atelier_generator.request import CompletedRequest, GenerateRequest, HiresPass, MaskKind
from atelier_generator.samplers import SAMPLERS
from atelier_runtime import defaults, wire
from atelier_runtime.checks import build_checked
from atelier_runtime.cost_model import Cost
from atelier_runtime.errors import FieldViolation
from atelier_runtime.images import EncodedImage, Picture, encode
from atelier_runtime.metrics import StageReport
from atelier_runtime.service import LoadedModels

_PREVIEW_QUALITY = 75

_OPTIONS = (
    *("negative_prompt", "width_px", "height_px", "num_inference_steps", "guidance_scale", "seed"),
    *("sampler", "schedule"),
    *("use_refiner", "hires_fix", "use_upscaler", "lanczos_scale", "num_images", "preview_interval_steps"),
    *("image", "strength", "mask", "mask_blur_px", "refiner_strength"),
)
"""The options that have the same name in the message and in the dataclass."""

_PROMPT_SYNTAXES: Mapping[pb.PromptSyntax, PromptSyntax] = {
    pb.PROMPT_SYNTAX_UNSPECIFIED: defaults.PROMPT_SYNTAX,
    pb.PROMPT_SYNTAX_PLAIN: "plain",
    pb.PROMPT_SYNTAX_WEIGHTED: "weighted",
}
_MASK_KINDS: Mapping[pb.MaskKind, MaskKind | None] = {
    pb.MASK_KIND_UNSPECIFIED: None,
    pb.MASK_KIND_WHITE: "white",
    pb.MASK_KIND_BLACK: "black",
    pb.MASK_KIND_TRANSPARENT: "transparent",
}


def request_from_proto(message: pb.GenerateImageRequest) -> GenerateRequest:
    """Read a request; unset options get their defaults. Raises `InvalidRequest` naming every bad field."""
    violations: list[FieldViolation] = []
    options = wire.set_fields(message, _OPTIONS)
    if message.prompt_syntax in _PROMPT_SYNTAXES:
        options["prompt_syntax"] = _PROMPT_SYNTAXES[message.prompt_syntax]
    else:
        violations.append(FieldViolation("prompt_syntax", f"{message.prompt_syntax} is unknown"))
    if message.mask_kind in _MASK_KINDS:
        options["mask_kind"] = _MASK_KINDS[message.mask_kind]
    else:
        violations.append(FieldViolation("mask_kind", f"{message.mask_kind} is unknown"))
    if message.HasField("hires_pass"):
        sides = message.hires_pass.width_px, message.hires_pass.height_px
        given = wire.set_fields(message.hires_pass, ("strength", "num_inference_steps"))
        options["hires_pass"] = HiresPass(*sides, **given)
    output = wire.output_from_proto(message.output, violations)
    options["metadata"] = output.metadata
    if output.format is not None:
        options["output_format"] = output.format
    if output.quality is not None:
        options["quality"] = output.quality
    options["loras"] = tuple(Lora(lora.name, **wire.set_fields(lora, ("weight",))) for lora in message.loras)
    return build_checked(GenerateRequest, {"prompt": message.prompt, **options}, violations)


def loras_to_proto(loras: LoraFolder) -> list[pb.AvailableLora]:
    """Write the LoRAs that requests may name."""
    return [
        pb.AvailableLora(name=file.name, trigger_words=file.trigger_words)
        for file in list(loras.offered.values())
    ]


def progress_to_proto(progress: Progress) -> pb.GenerateImageResponse:
    """Write a progress event. Encodes its previews, which takes milliseconds: not for the event loop."""
    return pb.GenerateImageResponse(
        progress=pb.GenerateImageProgress(
            stage=progress.stage,
            step=progress.step,
            total_steps=progress.total_steps,
            previews=[encode(Picture(rgb=pixels), "jpeg", _PREVIEW_QUALITY) for pixels in progress.previews],
        )
    )


def result_to_proto(
    generation: Generation, image: EncodedImage, stages: list[StageReport], loaded: LoadedModels
) -> pb.GenerateImageResponse:
    """Write the event of an image. `image`: encoded in the requested format; `stages`: encoding included."""
    return pb.GenerateImageResponse(
        result=pb.GenerateImageResult(
            image=wire.image_to_proto(image),
            seed=generation.seed,
            refiner_applied=generation.refiner_applied,
            refiner_reason=wire.skip_reason_to_proto(generation.refiner_reason),
            hires_fix_applied=generation.hires_fix_applied,
            upscaler=generation.upscaler,
            warnings=wire.warnings_to_proto(generation.warnings),
            stages=wire.stages_to_proto(stages),
            model_set=loaded.model_set,
            model_set_hash=loaded.model_set_hash,
            drawn_on=loaded.works_on,
            prompt_tokens=generation.prompt_tokens,
            hires_strength=generation.hires_strength,
            sampler=generation.sampler,
            schedule=generation.schedule,
            num_inference_steps=generation.num_inference_steps,
            guidance_scale=generation.guidance_scale,
            strength=generation.strength,
        )
    )


def estimate_to_proto(
    estimate: Estimate, request: CompletedRequest, names: tuple[str, str], wait_s: float, model_set: str
) -> pb.EstimateImageResponse:
    """Write what a request is expected to take. `names`: of the sampler and the schedule."""
    return pb.EstimateImageResponse(
        passes=[
            pb.EstimatedPass(
                stage=stage.name,
                width_px=stage.size.width,
                height_px=stage.size.height,
                steps=stage.steps,
            )
            for stage in estimate.passes
        ],
        stages=[
            pb.EstimatedStage(stage=stage.name, duration=_cost_to_proto(cost))
            for stage, cost in estimate.stages
        ],
        width_px=estimate.result.width,
        height_px=estimate.result.height,
        duration=_cost_to_proto(estimate.cost),
        observations=estimate.cost.observations,
        peak_vram_bytes=estimate.peak_bytes,
        queue_wait=wire.duration_to_proto(wait_s),
        model_set=model_set,
        sampler=names[0],
        schedule=names[1],
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        num_images=request.num_images,
        strength=request.strength,
        warnings=wire.warnings_to_proto(request.source.warnings if request.source else ()),
    )


def _cost_to_proto(cost: Cost) -> pb.EstimatedDuration:
    return pb.EstimatedDuration(
        expected=wire.duration_to_proto(cost.seconds),
        low=wire.duration_to_proto(cost.low_s),
        high=wire.duration_to_proto(cost.high_s),
    )


def samplers_to_proto(names: Iterable[str]) -> list[pb.Sampler]:
    """Write samplers with their schedules and further names."""
    return [
        pb.Sampler(name=name, schedules=SAMPLERS[name].schedules, aliases=SAMPLERS[name].other_names)
        for name in names
    ]
