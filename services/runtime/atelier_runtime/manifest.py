"""What the `manifest.json` of a model set must look like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atelier_runtime import defaults
from atelier_runtime.latent_colors import LatentColors
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.snapshot import CheckpointError, take

_MOST_BYTES = 16 << 20  # thousands of times that of a large set
_MOST_QUOTED = 60
_STEPS, _GUIDANCE = defaults.NUM_INFERENCE_STEPS_RANGE, defaults.GUIDANCE_SCALE_RANGE

Side = Annotated[int, Field(ge=1)]
_Level = Annotated[float, Field(allow_inf_nan=False)]
_Rgb = Annotated[tuple[_Level, _Level, _Level], Field(strict=False)]


class ManifestError(ValueError):
    """The manifest is invalid; the message names the field."""


class _Table(BaseModel):
    """Further keys are for human readers."""

    model_config = ConfigDict(strict=True, frozen=True)


class ComponentEntry(_Table):
    """A network: its path within the set, and its name."""

    path: Annotated[str, Field(min_length=1)]
    name: str


class FileEntry(_Table):
    """A file of the set."""

    sha256: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
    bytes: int | None = None


class SamplingEntry(_Table):
    """How the base draws where a request leaves it open. No further keys: a misspelt one would do nothing."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    num_inference_steps: Annotated[int, Field(ge=_STEPS[0], le=_STEPS[1])] | None = None
    guidance_scale: Annotated[float, Field(ge=_GUIDANCE[0], le=_GUIDANCE[1])] | None = None
    sampler: str | None = None
    schedule: str | None = None


class IdentityEntry(_Table):
    """What the cosines of the set's identity network mean, as measured. No further keys, as above."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    min_similarity: Annotated[
        float, Field(ge=defaults.MIN_SIMILARITY_RANGE[0], le=defaults.MIN_SIMILARITY_RANGE[1])
    ]
    min_certainty: Annotated[float, Field(ge=0, le=1)] = 0.05


class PreviewEntry(_Table):
    """The colors of the latents' channels, see `LatentColors`. No further keys, as above."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    factors: Annotated[tuple[_Rgb, ...], Field(min_length=1, strict=False)]
    bias: _Rgb

    def colors(self) -> LatentColors:
        """Return them."""
        return LatentColors(self.factors, self.bias)


class Manifest(_Table):
    """The fields are those of `atelier_runtime.weights.ModelSet`."""

    name: str
    license: str
    components: dict[NetworkRole, ComponentEntry]
    files: dict[str, FileEntry]
    max_side: Side | None = None
    refiner_max_side: Side | None = None
    size_multiple: Side = 8
    default_negative_prompt: str = ""
    sampling: SamplingEntry = SamplingEntry()
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    zero_terminal_snr: bool | None = None
    max_prompt_chunks: Annotated[int, Field(ge=1)] | None = None
    clip_skip: Annotated[int, Field(ge=1, le=12)] = 2
    preview: PreviewEntry | None = None
    guidance_rescale: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    match_tone: bool = False
    identity: IdentityEntry | None = None

    @model_validator(mode="after")
    def _check_sides(self) -> Manifest:
        refiner = self.refiner_max_side
        if refiner is not None and (self.max_side is None or refiner < self.max_side):
            raise ValueError(f"refiner_max_side is {refiner}, below max_side, which is {self.max_side}")
        return self


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Read and check a manifest; return it and the SHA-256 of what was read.

    Raises `ManifestError` for one that is invalid or cannot be read.
    """
    try:
        with take(path, most=_MOST_BYTES) as snapshot:
            return Manifest.model_validate_json(snapshot.read()), snapshot.sha256
    except CheckpointError as error:
        raise ManifestError(str(error)) from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        given = (
            ""
            if problem["type"] in ("missing", "json_invalid", "value_error")
            else f", is {_quoted(problem['input'])}"
        )
        raise ManifestError(f"{path} is invalid: {where} {reason}{given}".replace(":  ", ": ")) from error


def _quoted(value: object) -> str:
    """Return a value as it was given, or its beginning."""
    text = repr(value)
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}..."
