"""The one schema of `POST /generate`: names, ranges, defaults, and what contradicts itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from atelier_gateway.checking import QUALITY_RANGE, WHOLE, Checker, RequestModel, openapi_schema, refusal
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation

ALIASES = {
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "use_hires_fix": "hires_fix",
    "upscale_factor": "upscale",
}
"""Older clients' name -> full name."""

SDXL = "SDXL"
"""The model name that clients of the first server send; any loaded set answers to it."""

_SIDE_RANGE = Field(
    ge=defaults.SIDE_PX_RANGE[0], le=defaults.SIDE_PX_RANGE[1], multiple_of=defaults.SIDE_PX_MULTIPLE
)
_STEPS_RANGE = Field(ge=defaults.NUM_INFERENCE_STEPS_RANGE[0], le=defaults.NUM_INFERENCE_STEPS_RANGE[1])
_SEED_RANGE = Field(ge=-1, le=defaults.SEED_RANGE[1])


class GenerateRequest(RequestModel):
    """An order for one picture, every option filled in."""

    prompt: str = Field(
        description="What to draw.", min_length=defaults.PROMPT_CHARS[0], max_length=defaults.PROMPT_CHARS[1]
    )
    negative_prompt: Annotated[str, Field(max_length=defaults.NEGATIVE_PROMPT_CHARS[1])] | None = Field(
        None, description="What to keep out. Default: the model set's."
    )
    width: Annotated[int, _SIDE_RANGE, WHOLE] = Field(defaults.SIDE_PX, description="Asked width in px.")
    height: Annotated[int, _SIDE_RANGE, WHOLE] = Field(defaults.SIDE_PX, description="Asked height in px.")
    num_inference_steps: Annotated[int, _STEPS_RANGE, WHOLE] = Field(
        defaults.NUM_INFERENCE_STEPS, description="Denoising steps."
    )
    guidance_scale: float = Field(
        defaults.GUIDANCE_SCALE,
        description="Classifier-free guidance.",
        ge=defaults.GUIDANCE_SCALE_RANGE[0],
        le=defaults.GUIDANCE_SCALE_RANGE[1],
    )
    seed: Annotated[int, _SEED_RANGE, WHOLE] | None = Field(
        None, description="Noise seed; null, absent or -1 draws one. The seed used is in the answer."
    )
    use_refiner: bool = Field(defaults.USE_REFINER, description="Refiner network at strength 0.3, if loaded.")
    hires_fix: bool = Field(
        defaults.HIRES_FIX,
        description="Base pass at 0.75 of the asked size, enlarged x2, second pass: 1.5x the asked size.",
    )
    use_realesrgan: bool = Field(
        defaults.USE_UPSCALER, description="Enlarge with the upscaler network, if loaded; else Lanczos."
    )
    hires_fix_simple: bool = Field(
        defaults.HIRES_FIX_SIMPLE, description="Enlarge by hires_scale with Lanczos only. Not with hires_fix."
    )
    hires_scale: float = Field(
        defaults.HIRES_SCALE,
        description="Enlargement of hires_fix_simple.",
        ge=defaults.HIRES_SCALE_RANGE[0],
        le=defaults.HIRES_SCALE_RANGE[1],
    )
    use_face_restoration: bool = Field(
        defaults.USE_FACE_RESTORATION, description="Restore the faces with RetinaFace and CodeFormer."
    )
    face_restoration_weight: float = Field(
        defaults.FIDELITY,
        description="CodeFormer's w: 0 best looking, 1 closest to the drawn face.",
        ge=defaults.FIDELITY_RANGE[0],
        le=defaults.FIDELITY_RANGE[1],
    )
    match_tone: bool | None = Field(
        None,
        description="Restored faces take on the tone around them, so that no lighter or darker box shows. "
        "Default: as the restorer's model set says.",
    )
    upscale: Annotated[Literal[1, 2, 4], WHOLE] = Field(
        default=defaults.UPSCALE, description="Final enlargement of the whole picture, faces or not."
    )
    face_size: Annotated[Literal[512], WHOLE] | None = Field(
        None, description="Side of the aligned face in px."
    )
    det_model: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="The loaded face detector, such as retinaface_resnet50."
    )
    model: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="The loaded model set's name, or SDXL."
    )
    on_restore_failure: Literal["return_base", "fail"] = Field(
        default=defaults.ON_RESTORE_FAILURE,
        description="If the restorer cannot do its work: return the drawn picture and say so, or fail.",
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(
        None, description="The picture's encoding. Default: what Accept asks for, else png."
    )
    quality: Annotated[int, QUALITY_RANGE, WHOLE] = Field(
        defaults.QUALITY, description="Of jpeg and webp; 100 makes webp lossless."
    )

    def drawn_size(self) -> tuple[int, int]:
        """Return width and height in px of what the generator returns: enlarged sides are multiples of 8."""
        scale = 1.0
        if self.hires_fix:
            scale = defaults.HIRES_BASE_SCALE * defaults.HIRES_ENLARGEMENT
        elif self.hires_fix_simple:
            scale = self.hires_scale
        step = defaults.SIDE_PX_MULTIPLE
        return int(self.width * scale / step + 1e-9) * step, int(self.height * scale / step + 1e-9) * step

    def final_size(self) -> tuple[int, int]:
        """Return width and height in px of the answer."""
        width, height = self.drawn_size()
        return width * self.upscale, height * self.upscale


@dataclass(frozen=True)
class Order:
    """A checked order, and how its client talks."""

    request: GenerateRequest
    older_client: bool
    """It used an older name, so it may read `image_base64`."""
    names: dict[str, str]
    """Full name -> the name that the client used, for messages that come from a stage."""

    def name_of(self, field: str) -> str:
        """Return the client's own name of a field."""
        return self.names.get(field, field)


_CHECKER = Checker(GenerateRequest, ALIASES)


def read_order(body: dict[str, Any], *, max_pixels: int) -> Order:
    """Check a JSON object.

    Raises:
        InvalidRequest: it names every offending field, up to 100 of them.
    """
    checked = _CHECKER.check(body)
    request, violations = checked.request, checked.violations
    if request is not None:
        violations += _contradictions(request, checked.names, max_pixels)
    if violations or request is None:
        raise refusal(violations)
    return Order(request, any(given in ALIASES for given in body), checked.names)


def _contradictions(request: GenerateRequest, names: dict[str, str], max_pixels: int) -> list[FieldViolation]:
    violations = []
    if request.hires_fix and request.hires_fix_simple:
        asked = names["hires_fix"]
        violations.append(FieldViolation(asked, "cannot be used together with hires_fix_simple"))
        violations.append(FieldViolation("hires_fix_simple", f"cannot be used together with {asked}"))
    width, height = request.final_size()
    if width * height > max_pixels:
        message = (
            f"the final picture would have {width}x{height} = {width * height} px, the limit is {max_pixels}"
        )
        enlarging = ["upscale"] if request.upscale > 1 else []
        enlarging += ["hires_fix"] if request.hires_fix else []
        enlarging += ["hires_scale"] if request.hires_fix_simple else []
        for field in ("width", "height", *enlarging):
            violations.append(FieldViolation(names.get(field, field), message))
    return violations


def openapi_request_schema() -> dict[str, Any]:
    """Return the JSON schema of the body."""
    return openapi_schema(_CHECKER, "GenerateRequest")
