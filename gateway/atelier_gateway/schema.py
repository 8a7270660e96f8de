"""The one schema of `POST /generate`: names, ranges, defaults, and what is said about a bad order.

The contract that existing clients rely on:
- an older name works like the full one, but not beside it;
- explicit null means the default;
- an unknown field, a wrong type or a value out of range is refused, and every offending field is named
  in one answer, by the name that the client used.
JSON types are taken at their word (true is not 1, "30" is not 30), save that 30.0 is the integer 30,
because some clients' numbers are all floats.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest

OLDER_NAMES = {
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "use_hires_fix": "hires_fix",
    "upscale_factor": "upscale",
}
"""Older clients' name -> full name."""

SDXL = "SDXL"
"""The model name that clients of the first server send; any loaded set answers to it."""

_MOST_VIOLATIONS = 100  # a body of a million unknown fields gets a short answer
_MOST_GIVEN_CHARS = 60


def _whole(value: object) -> object:
    if isinstance(value, bool):  # Python's True equals 1, JSON's true does not
        raise ValueError("a truth value is no number")
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)
_SIDE_RANGE = Field(
    ge=defaults.SIDE_PX_RANGE[0], le=defaults.SIDE_PX_RANGE[1], multiple_of=defaults.SIDE_PX_MULTIPLE
)
_STEPS_RANGE = Field(ge=defaults.NUM_INFERENCE_STEPS_RANGE[0], le=defaults.NUM_INFERENCE_STEPS_RANGE[1])
_SEED_RANGE = Field(ge=-1, le=defaults.SEED_RANGE[1])
_QUALITY_RANGE = Field(ge=defaults.QUALITY_RANGE[0], le=defaults.QUALITY_RANGE[1])


class GenerateRequest(BaseModel):
    """An order for one picture, every option filled in."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: str = Field(
        description="What to draw.", min_length=defaults.PROMPT_CHARS[0], max_length=defaults.PROMPT_CHARS[1]
    )
    negative_prompt: Annotated[str, Field(max_length=defaults.NEGATIVE_PROMPT_CHARS[1])] | None = Field(
        None, description="What to keep out. Default: the model set's."
    )
    width: Annotated[int, _SIDE_RANGE, _WHOLE] = Field(defaults.SIDE_PX, description="Asked width in px.")
    height: Annotated[int, _SIDE_RANGE, _WHOLE] = Field(defaults.SIDE_PX, description="Asked height in px.")
    num_inference_steps: Annotated[int, _STEPS_RANGE, _WHOLE] = Field(
        defaults.NUM_INFERENCE_STEPS, description="Denoising steps."
    )
    guidance_scale: float = Field(
        defaults.GUIDANCE_SCALE,
        description="Classifier-free guidance.",
        ge=defaults.GUIDANCE_SCALE_RANGE[0],
        le=defaults.GUIDANCE_SCALE_RANGE[1],
    )
    seed: Annotated[int, _SEED_RANGE, _WHOLE] | None = Field(
        None, description="Noise seed; null, absent or -1 draws one. The seed used is in the answer."
    )
    use_refiner: bool = Field(defaults.USE_REFINER, description="Refiner network at strength 0.3, if loaded.")
    hires_fix: bool = Field(
        defaults.HIRES_FIX,
        description="Base pass at 0.75 of the asked size, enlarged x2, second pass: 1.5x the asked size.",
    )
    use_realesrgan: bool = Field(
        defaults.USE_REALESRGAN, description="Enlarge with the upscaler network, if loaded; else Lanczos."
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
    upscale: Annotated[Literal[1, 2, 4], _WHOLE] = Field(
        default=defaults.UPSCALE, description="Final enlargement of the whole picture, faces or not."
    )
    face_size: Annotated[Literal[512], _WHOLE] | None = Field(
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
    quality: Annotated[int, _QUALITY_RANGE, _WHOLE] = Field(defaults.QUALITY, description="Of jpeg and webp.")

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


def read_order(body: dict[str, Any], *, max_pixels: int) -> Order:
    """Check a JSON object.

    Raises:
        InvalidRequest: it names every offending field, up to 100 of them.
    """
    violations: list[FieldViolation] = []
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    unknown: list[str] = []
    for given, value in body.items():
        field = OLDER_NAMES.get(given, given)
        if field not in GenerateRequest.model_fields:
            unknown.append(given)
        elif given != field and field in body:
            violations.append(FieldViolation(given, f"is an older name of {field}: give only one of them"))
            violations.append(FieldViolation(field, f"is the full name of {given}: give only one of them"))
        else:
            names[field] = given
            if value is not None:
                values[field] = value
    violations += _unknown_fields(unknown)
    request = _validate(values, names, violations)
    if request is not None:
        violations += _contradictions(request, names, max_pixels)
    if violations or request is None:
        raise refusal(violations)
    return Order(request, any(given in OLDER_NAMES for given in body), names)


def refusal(violations: list[FieldViolation]) -> InvalidRequest:
    """Put violations into one error; the message shows the first few, `fields` the first hundred."""
    shown = "; ".join(f"{v.field}: {v.message}" for v in violations[:5])
    more = f"; and {len(violations) - 5} more" if len(violations) > 5 else ""
    fields = violations[:_MOST_VIOLATIONS]
    if len(violations) > _MOST_VIOLATIONS:
        fields.append(FieldViolation("...", f"and {len(violations) - _MOST_VIOLATIONS} more"))
    return InvalidRequest(fields, shown + more)


def _unknown_fields(unknown: list[str]) -> list[FieldViolation]:
    known = [*GenerateRequest.model_fields, *OLDER_NAMES]
    violations = []
    for position, given in enumerate(unknown):
        # likeness costs time, so only the first few get a hint
        alike = difflib.get_close_matches(given[:50], known, n=1) if position < 10 else []
        hint = f"; did you mean {alike[0]}?" if alike else ""
        violations.append(FieldViolation(_printable(given), f"is not a field of this request{hint}"))
    return violations


def _validate(
    values: dict[str, Any], names: dict[str, str], violations: list[FieldViolation]
) -> GenerateRequest | None:
    for field, value in list(values.items()):
        if isinstance(value, str) and not _is_unicode(value):
            violations.append(
                FieldViolation(names[field], "holds half of a surrogate pair, which is no character")
            )
            # the stand-in keeps a required field from being reported as missing too
            values[field] = "?"
    try:
        return GenerateRequest.model_validate(values)
    except ValidationError as error:
        for field in dict.fromkeys(str(problem["loc"][0]) for problem in error.errors(include_url=False)):
            if field not in values:
                message = "is required: " + _EXPECTED[field]
            else:
                message = f"must be {_EXPECTED[field]}, not {_given(values[field])}"
            violations.append(FieldViolation(names.get(field, field), message))
        return None


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


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    cut = text if len(text) <= _MOST_GIVEN_CHARS else text[: _MOST_GIVEN_CHARS - 3] + "..."
    return "".join(c if c.isprintable() else "?" for c in cut)


def _given(value: object) -> str:
    if isinstance(value, str) and len(value) > _MOST_GIVEN_CHARS:
        return f"{len(value)} characters"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return _printable(json.dumps(value, ensure_ascii=False))


def _expected(schema: dict[str, Any]) -> str:
    """Say in words what a property's JSON schema allows."""
    schema = next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if choices:
        shown = [str(choice) for choice in choices]
        return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "string":
        return f"a string of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    step = f" and a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
    low, high = (
        int(bound) if bound == int(bound) else bound for bound in (schema["minimum"], schema["maximum"])
    )
    return f"{kind} from {low} to {high}{step}"


_PROPERTIES: dict[str, Any] = GenerateRequest.model_json_schema()["properties"]
_EXPECTED = {field: _expected(schema) for field, schema in _PROPERTIES.items()}


def openapi_request_schema() -> dict[str, Any]:
    """Return the JSON schema of the body: with null for every option, and the older names as deprecated."""
    properties: dict[str, Any] = {}
    for field, described in _PROPERTIES.items():
        schema = {key: value for key, value in described.items() if key != "title"}
        if field != "prompt" and "anyOf" not in schema:
            outside = {key: schema.pop(key) for key in ("description", "default") if key in schema}
            schema = {"anyOf": [schema, {"type": "null"}], **outside}
        properties[field] = schema
    for older, field in OLDER_NAMES.items():
        properties[older] = {
            **{key: value for key, value in properties[field].items() if key != "default"},
            "description": f"Older name of {field}; not together with it.",
            "deprecated": True,
        }
    return {
        "title": "GenerateRequest",
        "type": "object",
        "properties": properties,
        "required": ["prompt"],
        "additionalProperties": False,
    }
