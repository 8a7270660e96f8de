"""What a caller may ask for: one frozen dataclass, its defaults and its limits.

Field names are those of `atelier.generator.v1.GenerateImageRequest`, so that a violation names
the field that the caller sent.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

from atelier_generator.plan import Size, result_size
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.images import FORMATS

RAW = "raw"
"""The output format that is no file: RGB8 pixels, row by row."""
OUTPUT_FORMATS = (*FORMATS, RAW)


@dataclass(frozen=True)
class GenerateRequest:
    """One picture to draw. `None` in `negative_prompt` or `seed`: not chosen yet, see `completed`."""

    prompt: str
    negative_prompt: str | None = None
    width_px: int = defaults.SIDE_PX
    height_px: int = defaults.SIDE_PX
    num_inference_steps: int = defaults.NUM_INFERENCE_STEPS
    guidance_scale: float = defaults.GUIDANCE_SCALE
    """1 or less switches classifier-free guidance off: the negative prompt then has no effect."""
    seed: int | None = None
    use_refiner: bool = defaults.USE_REFINER
    hires_fix: bool = defaults.HIRES_FIX
    use_upscaler: bool = defaults.USE_UPSCALER
    hires_fix_simple: bool = defaults.HIRES_FIX_SIMPLE
    hires_scale: float = defaults.HIRES_SCALE
    output_format: str = defaults.OUTPUT_FORMAT
    quality: int = defaults.QUALITY

    @property
    def result_size(self) -> Size:
        """Size of the finished picture."""
        return result_size(
            Size(self.width_px, self.height_px),
            hires_fix=self.hires_fix,
            simple_scale=self.hires_scale if self.hires_fix_simple else None,
        )

    def check(self, max_pixels: int) -> None:
        """Raise `InvalidRequest` naming every field that is out of range.

        `max_pixels` bounds the finished picture, before any work is done.
        """
        violations = list(self._violations())
        if not violations:
            violations = list(self._size_violations(max_pixels))
        if violations:
            raise InvalidRequest(violations)

    def completed(self, default_negative_prompt: str) -> GenerateRequest:
        """Return the request with the model set's negative prompt and a drawn seed where none was given."""
        negative = default_negative_prompt if self.negative_prompt is None else self.negative_prompt
        seed = secrets.randbelow(defaults.SEED_RANGE[1] + 1) if self.seed is None else self.seed
        return replace(self, negative_prompt=negative, seed=seed)

    def _violations(self) -> Iterator[FieldViolation]:
        yield from _check_length("prompt", self.prompt, defaults.PROMPT_CHARS)
        if self.negative_prompt is not None:
            yield from _check_length("negative_prompt", self.negative_prompt, defaults.NEGATIVE_PROMPT_CHARS)
        for field in ("width_px", "height_px"):
            yield from _check_side(field, getattr(self, field))
        ranges: dict[str, tuple[float, float]] = {
            "num_inference_steps": defaults.NUM_INFERENCE_STEPS_RANGE,
            "guidance_scale": defaults.GUIDANCE_SCALE_RANGE,
            "hires_scale": defaults.HIRES_SCALE_RANGE,
        }
        for field, limits in ranges.items():
            yield from _check_range(field, getattr(self, field), limits)
        if self.seed is not None:
            yield from _check_range("seed", self.seed, defaults.SEED_RANGE)
        if self.hires_fix and self.hires_fix_simple:
            message = "hires_fix and hires_fix_simple exclude each other"
            yield FieldViolation("hires_fix", message)
            yield FieldViolation("hires_fix_simple", message)
        if self.output_format not in OUTPUT_FORMATS:
            message = f"must be one of {', '.join(OUTPUT_FORMATS)}, is {self.output_format}"
            yield FieldViolation("output.format", message)
        yield from _check_range("output.quality", self.quality, defaults.QUALITY_RANGE)

    def _size_violations(self, max_pixels: int) -> Iterator[FieldViolation]:
        size = self.result_size
        if size.width * size.height > max_pixels:
            message = (
                f"the finished picture would have {size} = {size.width * size.height} pixels, "
                f"the limit is {max_pixels}"
            )
            yield FieldViolation("width_px", message)
            yield FieldViolation("height_px", message)


def _check_length(field: str, text: str, limits: tuple[int, int]) -> Iterator[FieldViolation]:
    low, high = limits
    if not low <= len(text) <= high:
        yield FieldViolation(field, f"must have {low} to {high} characters, has {len(text)}")


def _check_side(field: str, value: int) -> Iterator[FieldViolation]:
    low, high = defaults.SIDE_PX_RANGE
    multiple = defaults.SIDE_PX_MULTIPLE
    if not low <= value <= high or value % multiple:
        yield FieldViolation(field, f"must be a multiple of {multiple} from {low} to {high}, is {value}")


def _check_range(field: str, value: float, limits: tuple[float, float]) -> Iterator[FieldViolation]:
    low, high = limits
    if not math.isfinite(value) or not low <= value <= high:
        yield FieldViolation(field, f"must be from {low:g} to {high:.16g}, is {value:g}")
