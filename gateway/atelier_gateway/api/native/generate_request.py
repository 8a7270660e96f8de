"""The request of `POST /generate`: names, ranges, defaults, and its spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from atelier_gateway.api.native.image_field import ImageField
from atelier_gateway.api.native.request import ClientNames, Quality, given_fields
from atelier_gateway.core import values
from atelier_gateway.core.values import GenerateSpec
from atelier_gateway.http.validation import INTEGER, RequestModel, Validator, refusal
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation
from atelier_runtime.outcomes import ResponseWarning, WarningCode

ALIASES = {
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "use_hires_fix": "hires_fix",
    "upscale_factor": "upscale",
}
"""Older clients' name -> full name."""

SDXL = "SDXL"
"""The model name that clients of the first server send; any loaded set answers to it."""

_CONTRACT_NAMES = {
    "fidelity": "face_restoration_weight",
    "use_upscaler": "use_realesrgan",
    "lanczos_scale": "hires_scale",
    "model_set": "model",
    "face_detector": "det_model",
}
"""The spec's name of a field -> the contract's, where they differ."""

_OF_FACES = ("face_restoration_weight", "match_tone", "det_model")
"""What has no effect where no faces are restored."""

_SAME_NAME = (
    *("prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "use_refiner"),
    *("sampler", "schedule", "prompt_syntax", "num_images"),
    *("hires_fix", "match_tone", "upscale", "on_restore_failure", "output_format", "quality"),
    *("image", "mask", "strength", "mask_kind", "mask_blur_px", "refiner_strength", "metadata"),
)

_Side = Annotated[
    int,
    Field(ge=defaults.SIDE_PX_RANGE[0], le=defaults.SIDE_PX_RANGE[1], multiple_of=defaults.SIDE_PX_MULTIPLE),
    INTEGER,
]
_STEPS_RANGE = Field(ge=defaults.NUM_INFERENCE_STEPS_RANGE[0], le=defaults.NUM_INFERENCE_STEPS_RANGE[1])
_GUIDANCE_RANGE = Field(ge=defaults.GUIDANCE_SCALE_RANGE[0], le=defaults.GUIDANCE_SCALE_RANGE[1])
_LoraWeight = Annotated[float, Field(ge=defaults.LORA_WEIGHT_RANGE[0], le=defaults.LORA_WEIGHT_RANGE[1])]
_NUM_IMAGES_RANGE = Field(ge=defaults.NUM_IMAGES_RANGE[0], le=defaults.NUM_IMAGES_RANGE[1])
_STRENGTH_RANGE = Field(ge=defaults.STRENGTH_RANGE[0], le=defaults.STRENGTH_RANGE[1])
_MASK_BLUR_RANGE = Field(ge=defaults.MASK_BLUR_PX_RANGE[0], le=defaults.MASK_BLUR_PX_RANGE[1])
_REFINER_STRENGTH_RANGE = Field(ge=defaults.REFINER_STRENGTH_RANGE[0], le=defaults.REFINER_STRENGTH_RANGE[1])
_SEED_RANGE = Field(ge=-1, le=defaults.SEED_RANGE[1])


class Lora(RequestModel):
    """A LoRA to apply."""

    name: str = Field(
        description="Its file's name in the generator's folder of LoRAs, without .safetensors.",
        min_length=defaults.LORA_NAME_CHARS[0],
        max_length=defaults.LORA_NAME_CHARS[1],
    )
    weight: _LoraWeight | None = Field(
        None, description=f"How strongly; 0 is not at all. Default: {defaults.LORA_WEIGHT:g}."
    )


_HiresSide = Annotated[
    int,
    Field(
        ge=defaults.HIRES_SIDE_PX_RANGE[0],
        le=defaults.HIRES_SIDE_PX_RANGE[1],
        multiple_of=defaults.SIDE_PX_MULTIPLE,
    ),
    INTEGER,
]


_HIRES_SIDES, _STEPS = defaults.HIRES_SIDE_PX_RANGE, defaults.NUM_INFERENCE_STEPS_RANGE


class HiresPass(RequestModel):
    """A hires fix of the client's own sizes."""

    width: _HiresSide = Field(description="Width of the result in px.")
    height: _HiresSide = Field(description="Height of the result in px.")
    strength: Annotated[float, _STRENGTH_RANGE] | None = Field(
        None,
        description="How much the second pass redraws: the share of its steps that run, at least one. "
        f"Default: {defaults.HIRES_STRENGTH:g}.",
    )
    num_inference_steps: Annotated[int, _STEPS_RANGE, INTEGER] | None = Field(
        None, description=f"Steps of which that share runs. Default: {defaults.HIRES_STEPS}."
    )


class GenerateRequest(RequestModel):
    """The body of `POST /generate`, with every default."""

    prompt: str = Field(
        description="What the image shows. <lora:name:0.8> in it applies a LoRA and is not part of the text.",
        min_length=defaults.PROMPT_CHARS[0],
        max_length=defaults.PROMPT_CHARS[1],
    )
    negative_prompt: Annotated[str, Field(max_length=defaults.NEGATIVE_PROMPT_CHARS[1])] | None = Field(
        None, description="What to avoid. Default: set by the model set."
    )
    prompt_syntax: Literal["plain", "weighted"] = Field(
        default=defaults.PROMPT_SYNTAX,
        description="plain: brackets in both prompts mean themselves. weighted: (word:1.3), [word] and BREAK "
        "as AUTOMATIC1111 reads them.",
    )
    image: ImageField | None = Field(
        None,
        description="An image to start from: a PNG, JPEG or WebP file. It is resized to cover width and "
        "height; without both, the result has its size, with sides of 256 to 2048 px. Not with hires_fix.",
        repr=False,
    )
    mask: ImageField | None = Field(
        None,
        description="Where the image is drawn anew: a gray image of the same size, white there, black where "
        "the image's pixels are kept, gray to blend.",
        repr=False,
    )
    mask_kind: Literal["white", "black", "transparent"] | None = Field(
        None, description=f"Which part of the mask is drawn anew. Default: {defaults.MASK_KIND}."
    )
    mask_blur_px: Annotated[float, _MASK_BLUR_RANGE] | None = Field(
        None,
        description="Blurs the mask's edges: the Gaussian's standard deviation in px of the mask. What is "
        "blurred is not kept exactly. Default: 0.",
    )
    strength: Annotated[float, _STRENGTH_RANGE] | None = Field(
        None,
        description="How much of the image is drawn anew: the share of the steps that run. Default: "
        f"{defaults.STRENGTH:g}.",
    )
    width: _Side = Field(defaults.SIDE_PX, description="Requested width in px; with an image, see there.")
    height: _Side = Field(defaults.SIDE_PX, description="Requested height in px; with an image, see there.")
    num_inference_steps: Annotated[int, _STEPS_RANGE, INTEGER] | None = Field(
        None,
        description="Denoising steps. Default: set by the model set, otherwise "
        f"{defaults.NUM_INFERENCE_STEPS}.",
    )
    guidance_scale: Annotated[float, _GUIDANCE_RANGE] | None = Field(
        None,
        description="Classifier-free guidance. Default: set by the model set, otherwise "
        f"{defaults.GUIDANCE_SCALE}.",
    )
    sampler: Annotated[str, Field(max_length=100)] | None = Field(
        None,
        description="The sampler, such as euler_ancestral or dpmpp_2m. Other programs' names are understood, "
        "such as DPM++ 2M Karras. Default: the model set's own.",
    )
    schedule: Annotated[str, Field(max_length=100)] | None = Field(
        None,
        description="The noise levels at which the sampler stops: default, karras, exponential, beta or "
        "trailing (sgm_uniform), as far as the sampler can follow them.",
    )
    seed: Annotated[int, _SEED_RANGE, INTEGER] | None = Field(
        None, description="Seed of the noise; random if null, absent or -1. The response contains it."
    )
    use_refiner: bool = Field(
        defaults.USE_REFINER,
        description="A pass of the refiner network's own, if it is loaded. The second pass of hires_fix and "
        "hires_pass may be the refiner's whatever this says.",
    )
    refiner_strength: Annotated[float, _REFINER_STRENGTH_RANGE] | None = Field(
        None,
        description="How much the refiner's own pass redraws; refiners such as SDXL's are made for 0.4 at "
        "most. Without effect with hires_fix, hires_pass, or use_refiner false. "
        f"Default: {defaults.REFINER_STRENGTH:g}.",
    )
    hires_pass: HiresPass | None = Field(
        None,
        description="Base pass at width and height, then upscaled to this one's width and height (each "
        f"{_HIRES_SIDES[0]} to {_HIRES_SIDES[1]}, a multiple of {defaults.SIDE_PX_MULTIPLE}; required), the "
        "result's size, and redrawn: "
        f"strength (up to 1; {defaults.HIRES_STRENGTH:g}) of num_inference_steps "
        f"({_STEPS[0]} to {_STEPS[1]}; {defaults.HIRES_STEPS}). "
        "Not with hires_fix, hires_fix_simple or an image.",
    )
    hires_fix: bool = Field(
        defaults.HIRES_FIX,
        description="Base pass at 0.75 of the requested size, upscaled x2, second pass: 1.5x the requested "
        "size.",
    )
    use_realesrgan: bool = Field(
        defaults.USE_UPSCALER, description="Upscale with the upscaler network, if loaded; otherwise Lanczos."
    )
    loras: Annotated[list[Lora], Field(max_length=defaults.MOST_LORAS)] = Field(
        [],
        description="LoRAs to apply to the base network and its text encoders; at most "
        f"{defaults.MOST_LORAS}, those that the prompt names included.",
    )
    hires_fix_simple: bool = Field(
        False, description="Upscale by hires_scale with Lanczos only. Not with hires_fix."
    )
    hires_scale: float = Field(
        defaults.LANCZOS_SCALE,
        description="Upscaling factor of hires_fix_simple.",
        ge=defaults.LANCZOS_SCALE_RANGE[0],
        le=defaults.LANCZOS_SCALE_RANGE[1],
    )
    use_face_restoration: bool = Field(
        defaults.USE_FACE_RESTORATION,
        description="Restore the faces with RetinaFace and CodeFormer. Not with a mask, outside of which "
        "nothing changes: the default is then false.",
    )
    face_restoration_weight: float = Field(
        defaults.FIDELITY,
        description="CodeFormer's w: 0 best looking, 1 closest to the generated face.",
        ge=defaults.FIDELITY_RANGE[0],
        le=defaults.FIDELITY_RANGE[1],
    )
    match_tone: bool | None = Field(
        None,
        description="Match restored faces to the tone of their surroundings, so that no visible box "
        "remains around the face. Default: set by the restorer's model set.",
    )
    upscale: Annotated[Literal[1, 2, 4], INTEGER] = Field(
        default=defaults.UPSCALE, description="Final upscaling factor of the whole image, faces or not."
    )
    face_size: Annotated[Literal[512], INTEGER] | None = Field(
        None, description="Side of the aligned face in px."
    )
    det_model: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="The loaded face detector, such as retinaface_resnet50."
    )
    model: Annotated[str, Field(max_length=100)] | None = Field(
        None, description=f"The name of the loaded model set, or {SDXL}."
    )
    on_restore_failure: Literal["return_base", "fail"] = Field(
        default=defaults.ON_RESTORE_FAILURE,
        description="If the restorer fails: return the generated image and say so, or fail.",
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(
        None, description="The image's format. Default: what Accept prefers, otherwise png."
    )
    quality: Quality = Field(defaults.QUALITY, description="For jpeg and webp; 100 makes webp lossless.")
    metadata: Literal["recipe", "none"] = Field(
        default=defaults.METADATA,
        description="What the file says of how it was made: the recipe, or nothing.",
    )
    num_images: Annotated[int, _NUM_IMAGES_RANGE, INTEGER] = Field(
        defaults.NUM_IMAGES,
        description="Images, with the seeds seed, seed + 1, ...; if given, the response has images.",
    )
    dry_run: bool = Field(
        False, description="Generate nothing: check the request, and return what it would take."
    )

    def to_spec(self) -> GenerateSpec:
        """Return what is requested; None where the client left it open."""
        given = given_fields(self)
        return GenerateSpec(
            **{name: given[name] for name in _SAME_NAME if given.get(name) is not None},
            seed=None if self.seed == -1 else self.seed,
            use_upscaler=given.get("use_realesrgan"),
            lanczos_scale=self.hires_scale if self.hires_fix_simple else None,
            hires_pass=None
            if (hires := self.hires_pass) is None
            else values.HiresPass(hires.width, hires.height, hires.strength, hires.num_inference_steps),
            loras=tuple(values.Lora(lora.name, lora.weight) for lora in self.loras),
            restore_faces=self.use_face_restoration and self.mask is None,
            fidelity=given.get("face_restoration_weight"),
            model_set=None if self.model is None or self.model.upper() == SDXL else self.model,
            face_detector=self.det_model,
            warnings=() if self.mask is None else tuple(_without_effect(given)),
        )


def _without_effect(given: Mapping[str, Any]) -> Iterator[ResponseWarning]:
    """Yield a warning that names the options for faces, if there are any, of a request with a mask."""
    if names := [name for name in _OF_FACES if given.get(name) is not None]:
        effect = "have no effect" if len(names) > 1 else "has no effect"
        message = f"{', '.join(names)}: {effect} with a mask, where no faces are restored"
        yield ResponseWarning(WarningCode.OPTION_HAS_NO_EFFECT, message)


_ONLY_OF_JOBS = "is a field of the input of POST /v1/jobs only"
ONLY_OF_JOBS = {"recipe_of": _ONLY_OF_JOBS, "any_model_set": _ONLY_OF_JOBS}
"""What the jobs that do the same take besides -> why not here."""

GENERATE = Validator(GenerateRequest, ALIASES, ONLY_OF_JOBS)


@dataclass(frozen=True)
class ParsedRequest:
    """A valid request, and what its client expects of the response."""

    request: GenerateRequest
    spec: GenerateSpec
    names: ClientNames
    uses_alias: bool


def parse_request(
    body: Mapping[str, Any],
    find_violations: Callable[[GenerateSpec], list[FieldViolation]],
    *,
    max_image_bytes: int,
) -> ParsedRequest:
    """Validate a JSON object, or the fields of a form; `find_violations` checks the spec.

    Large images take a while: not for the event loop. `max_image_bytes`: of image and mask together.

    Raises:
        InvalidRequest: names every offending field, up to 100 of them.
    """
    validated = GENERATE.validate(body)
    request, violations = validated.request, validated.violations
    if request is None:
        raise refusal(violations)
    spec, names = request.to_spec(), ClientNames(_CONTRACT_NAMES, validated.names)
    violations += [*_contradictions(request, names), *_image_violations(request, names, max_image_bytes)]
    violations += [FieldViolation(names(v.field), v.message) for v in find_violations(spec)]
    if violations:
        raise refusal(violations)
    return ParsedRequest(request, spec, names, any(field in ALIASES for field in body))


def _contradictions(request: GenerateRequest, names: ClientNames) -> list[FieldViolation]:
    given = {
        names("hires_fix"): request.hires_fix,
        "hires_fix_simple": request.hires_fix_simple,
        "hires_pass": request.hires_pass is not None,
    }
    together = [name for name, is_given in given.items() if is_given]
    return [
        FieldViolation(name, f"cannot be used together with {' and '.join(n for n in together if n != name)}")
        for name in together
        if len(together) > 1
    ]


def _image_violations(
    request: GenerateRequest, names: ClientNames, max_image_bytes: int
) -> Iterator[FieldViolation]:
    given = {name for name in request.model_fields_set if getattr(request, name) is not None}
    if request.image is None:
        yield from (
            FieldViolation(name, "requires an image")
            for name in ("mask", "strength", "mask_kind", "mask_blur_px")
            if name in given
        )
        return
    size = len(request.image) + len(request.mask or b"")
    if size > max_image_bytes:
        fields = "image, mask" if request.mask else "image"
        yield FieldViolation(
            "mask" if request.mask else "image", f"{fields}: {size} bytes, the limit is {max_image_bytes}"
        )
    if request.mask is not None and request.use_face_restoration and "use_face_restoration" in given:
        message = "cannot be used with a mask, outside of which nothing changes; /restore takes single faces"
        yield FieldViolation("use_face_restoration", message)
    if request.mask is None:
        for name in ("mask_kind", "mask_blur_px"):
            if name in given:
                yield FieldViolation(name, "requires a mask")
    if request.hires_pass is not None:
        yield FieldViolation("hires_pass", "cannot be used with an image; hires_fix_simple can")
    if request.hires_fix:
        yield FieldViolation(names("hires_fix"), "cannot be used with an image; hires_fix_simple can")
    for one, other in (("width", "height"), ("height", "width")):
        if one not in given and other in given:
            yield FieldViolation(one, f"is required with {other}; without both, the image's own size")
