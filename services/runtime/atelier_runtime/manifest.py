"""What the `manifest.json` of a model set must look like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atelier_runtime.service_status import NetworkRole
from atelier_runtime.snapshot import CheckpointError, take

_MOST_BYTES = 16 << 20  # thousands of times that of a large set
_MOST_QUOTED = 60

Side = Annotated[int, Field(ge=1)]


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
    guidance_rescale: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    match_tone: bool = False

    @model_validator(mode="after")
    def _check_sides(self) -> Manifest:
        refiner = self.refiner_max_side
        if refiner is not None and (self.max_side is None or refiner < self.max_side):
            raise ValueError(f"refiner_max_side is {refiner}, below max_side, which is {self.max_side}")
        return self


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest. Raises `ManifestError` for one that is invalid or cannot be read."""
    try:
        with take(path, most=_MOST_BYTES) as snapshot:
            return Manifest.model_validate_json(snapshot.read())
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
