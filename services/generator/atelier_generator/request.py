"""What a caller may request: frozen, self-validating dataclasses with their defaults.

Field names are those of `atelier.generator.v1.GenerateImageRequest`, so that a violation names the field that
the caller sent.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, ClassVar, Literal

from atelier_generator import lora_tags
from atelier_generator.lora_tags import Lora
from atelier_generator.prompt_syntax import PROMPT_SYNTAXES, PromptSyntax, check_prompt
from atelier_generator.samplers import Choice, completed_choice, name_problems, read_choice
from atelier_generator.source import Source
from atelier_runtime import defaults
from atelier_runtime.checks import (
    check_choice,
    check_last_seed,
    check_length,
    check_multiple,
    check_range,
    raise_violations,
)
from atelier_runtime.errors import FieldViolation
from atelier_runtime.images import OutputFormat
from atelier_runtime.model_defaults import ModelDefaults
from atelier_runtime.outcomes import Metadata
from atelier_runtime.sizes import Size, result_size

MaskKind = Literal["white", "black", "transparent"]
"""Which part of a mask is drawn anew."""


@dataclass(frozen=True)
class HiresPass:
    """The second pass of a hires fix of the caller's own sizes: the result's size, and how it is redrawn."""

    width_px: int
    height_px: int
    strength: float = defaults.HIRES_STRENGTH
    num_inference_steps: int = defaults.HIRES_STEPS

    @property
    def size(self) -> Size:
        """The size of the result."""
        return Size(self.width_px, self.height_px)

    def violations(self) -> Iterator[FieldViolation]:
        """Yield what is out of range."""
        limits, multiple = defaults.HIRES_SIDE_PX_RANGE, defaults.SIDE_PX_MULTIPLE
        yield from check_multiple("hires_pass.width_px", self.width_px, limits, multiple)
        yield from check_multiple("hires_pass.height_px", self.height_px, limits, multiple)
        steps = "hires_pass.num_inference_steps"
        if problems := list(check_range(steps, self.num_inference_steps, defaults.NUM_INFERENCE_STEPS_RANGE)):
            yield from problems
            return
        if problems := list(check_range("hires_pass.strength", self.strength, (0.0, 1.0))):
            yield from problems
        elif int(self.num_inference_steps * self.strength) == 0:
            usual = self.num_inference_steps == defaults.HIRES_STEPS
            lowest = math.ceil(1000 / self.num_inference_steps) / 1000
            yield FieldViolation(
                "hires_pass.strength" if usual else steps,
                f"{self.strength:g} of {self.num_inference_steps} is less than one step: strength must be at "
                f"least {lowest:g}, or there must be more num_inference_steps",
            )


@dataclass(frozen=True)
class GenerateRequest:
    """What to generate. None: left to the model set, or to chance, see `completed`.

    `sampler` and `schedule`: names in `samplers`.
    """

    _prompt_chars: ClassVar = defaults.PROMPT_CHARS

    prompt: str
    negative_prompt: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    """Both None: the size of the image to start from; without one, `SIDE_PX`."""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    """1 or less disables classifier-free guidance: the negative prompt then has no effect."""
    sampler: str | None = None
    schedule: str | None = None
    seed: int | None = None
    use_refiner: bool = defaults.USE_REFINER
    hires_fix: bool = defaults.HIRES_FIX
    use_upscaler: bool = defaults.USE_UPSCALER
    lanczos_scale: float | None = None
    prompt_syntax: PromptSyntax = defaults.PROMPT_SYNTAX
    """Of both prompts."""
    output_format: OutputFormat = defaults.OUTPUT_FORMAT
    quality: int = defaults.QUALITY
    loras: tuple[Lora, ...] = ()
    """Applied to the base network and the text encoders, together with those that the prompt's tags name."""
    num_images: int = defaults.NUM_IMAGES
    """Images, with the seeds `seed`, `seed + 1`, ..."""
    preview_interval_steps: int | None = None
    """After each so many steps of a pass there is a preview. None: there are none."""
    image: bytes | None = dataclasses.field(default=None, repr=False)
    """A file to start from: PNG, JPEG or WebP."""
    mask: bytes | None = dataclasses.field(default=None, repr=False)
    """A file of the same size, white where the image is drawn anew."""
    strength: float | None = None
    """The share of the steps that are run from the image."""
    mask_kind: MaskKind | None = None
    """Which part of `mask` is drawn anew; None: `MASK_KIND`."""
    mask_blur_px: float | None = None
    """Standard deviation, in px of the mask, of the Gaussian that its edges are blurred by."""
    hires_pass: HiresPass | None = None
    refiner_strength: float | None = None
    """None: `REFINER_STRENGTH`. Of the refiner's own pass, not of hires fix."""
    metadata: Metadata = defaults.METADATA
    source: Source | None = dataclasses.field(default=None, repr=False)
    """What has become of `image` and `mask`, see `with_source`."""

    def __post_init__(self) -> None:
        """Raise `InvalidRequest` naming every field that is out of range."""
        raise_violations(self._violations())

    @property
    def writes_recipe(self) -> bool:
        """Whether the file says how it was made."""
        return self.metadata == "recipe" and self.output_format != "raw"

    @property
    def from_image(self) -> bool:
        """Whether it starts from an image."""
        return self.image is not None or self.source is not None

    @property
    def masked(self) -> bool:
        """Whether only a part of the image is drawn anew."""
        return self.mask is not None or (self.source is not None and self.source.mask is not None)

    @property
    def own_size(self) -> bool:
        """Whether the image to start from decides on the size."""
        return self.from_image and self.width_px is None and self.height_px is None

    @property
    def size(self) -> Size:
        """The size that is requested; unknown before `with_source` if it is the image's own."""
        if self.source is not None:
            return self.source.size
        return Size(self.width_px or defaults.SIDE_PX, self.height_px or defaults.SIDE_PX)

    @property
    def result_size(self) -> Size:
        """Size of the finished image."""
        hires_pass = None if self.hires_pass is None else self.hires_pass.size
        return result_size(
            self.size, hires_fix=self.hires_fix, lanczos_scale=self.lanczos_scale, hires_pass=hires_pass
        )

    def check_size(self, max_pixels: int) -> None:
        """Raise `InvalidRequest` if the finished image would exceed `max_pixels`."""
        size = self.result_size
        if size.pixels > max_pixels:
            message = f"the finished image would be {size} = {size.pixels} pixels, the limit is {max_pixels}"
            fields: tuple[str, ...] = ("image",) if self.own_size else ("width_px", "height_px")
            if self.hires_pass is not None:
                fields = "hires_pass.width_px", "hires_pass.height_px"
            raise_violations(FieldViolation(field, message) for field in fields)

    def completed(self, model: ModelDefaults, stored_sampler: str | None = None) -> CompletedRequest:
        """Return the request with the model set's values, and a random seed, where it has none.

        `stored_sampler`: the name of the base's own; see `completed_choice`. Raises `InvalidRequest` for a
        schedule that the set's sampler cannot follow.
        """
        seeds = defaults.SEED_RANGE[1] + 2 - self.num_images  # of these the last image's is in range too
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["prompt"], tagged = lora_tags.read_tags(self.prompt)
        values["loras"] = (*self.loras, *tagged)
        chosen: dict[str, Any] = {
            "negative_prompt": model.negative_prompt,
            "num_inference_steps": model.num_inference_steps,
            "guidance_scale": model.guidance_scale,
            "seed": secrets.randbelow(seeds),
        }
        values["sampler"], values["schedule"] = completed_choice(
            self.sampler, self.schedule, (model.sampler, model.schedule), stored_sampler
        )
        if self.from_image:
            chosen["strength"] = defaults.STRENGTH
        return CompletedRequest(
            **values | {name: value for name, value in chosen.items() if values[name] is None}
        )

    def _violations(self) -> Iterator[FieldViolation]:
        yield from self._prompt_violations()
        for field in ("width_px", "height_px"):
            yield from check_multiple(
                field, getattr(self, field), defaults.SIDE_PX_RANGE, defaults.SIDE_PX_MULTIPLE
            )
        yield from self._image_violations()
        ranges: dict[str, tuple[float, float]] = {
            "num_inference_steps": defaults.NUM_INFERENCE_STEPS_RANGE,
            "guidance_scale": defaults.GUIDANCE_SCALE_RANGE,
            "seed": defaults.SEED_RANGE,
            "lanczos_scale": defaults.LANCZOS_SCALE_RANGE,
            "num_images": defaults.NUM_IMAGES_RANGE,
            "preview_interval_steps": defaults.PREVIEW_INTERVAL_STEPS_RANGE,
            "strength": defaults.STRENGTH_RANGE,
            "refiner_strength": defaults.REFINER_STRENGTH_RANGE,
            "mask_blur_px": defaults.MASK_BLUR_PX_RANGE,
        }
        for field, limits in ranges.items():
            yield from check_range(field, getattr(self, field), limits)
        for field, problem in name_problems(self.sampler, self.schedule):
            yield FieldViolation(field, problem)
        yield from check_last_seed(self.seed, self.num_images)
        if self.hires_fix and self.lanczos_scale is not None:
            message = "hires_fix and lanczos_scale exclude each other"
            yield FieldViolation("hires_fix", message)
            yield FieldViolation("lanczos_scale", message)
        if self.hires_pass is not None:
            yield from self._hires_pass_violations(self.hires_pass)
        yield from check_range("output.quality", self.quality, defaults.QUALITY_RANGE)

    def _hires_pass_violations(self, hires_pass: HiresPass) -> Iterator[FieldViolation]:
        yield from hires_pass.violations()
        for field, given in (
            ("hires_fix", self.hires_fix),
            ("lanczos_scale", self.lanczos_scale is not None),
            ("image", self.from_image),
        ):
            if given:
                yield FieldViolation("hires_pass", f"cannot be used together with {field}")

    def _prompt_violations(self) -> Iterator[FieldViolation]:
        yield from check_choice("prompt_syntax", self.prompt_syntax, PROMPT_SYNTAXES)
        prompt, negative_prompt = self.prompt, self.negative_prompt
        if problems := list(check_length("prompt", prompt, self._prompt_chars)):
            yield from problems
            prompt = ""  # to read one of any length would take any time
        if problems := list(check_length("negative_prompt", negative_prompt, defaults.NEGATIVE_PROMPT_CHARS)):
            yield from problems
            negative_prompt = ""
        yield from lora_tags.violations(prompt, negative_prompt, self.loras)
        yield from check_prompt("prompt", lora_tags.without_tags(prompt), self.prompt_syntax)
        yield from check_prompt("negative_prompt", negative_prompt, self.prompt_syntax)

    def _image_violations(self) -> Iterator[FieldViolation]:
        if not self.from_image:
            for field in ("strength", "mask", "mask_kind", "mask_blur_px"):
                if getattr(self, field) is not None:
                    yield FieldViolation(field, "requires an image")
            return
        if not self.masked:
            for field in ("mask_kind", "mask_blur_px"):
                if getattr(self, field) is not None:
                    yield FieldViolation(field, "requires a mask")
        if self.hires_fix:
            yield FieldViolation("hires_fix", "cannot be used with an image; lanczos_scale can")
        for one, other in (("width_px", "height_px"), ("height_px", "width_px")):
            if getattr(self, one) is None and getattr(self, other) is not None:
                yield FieldViolation(one, f"is required with {other}; without both, the image's own size")


@dataclass(frozen=True)
class CompletedRequest(GenerateRequest):
    """A request that leaves nothing open but what the networks' own files say.

    Its prompt has no tags any more: what they name is in `loras`. It is empty if it had nothing else.
    """

    _prompt_chars: ClassVar = (0, defaults.PROMPT_CHARS[1])

    _: KW_ONLY
    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float
    seed: int

    @property
    def guided(self) -> bool:
        """Whether there is classifier-free guidance."""
        return self.guidance_scale > 1

    @property
    def choice(self) -> Choice:
        """The sampler and the schedule."""
        return read_choice(self.sampler, self.schedule)

    def with_source(self, source: Source, strength: float | None = None) -> CompletedRequest:
        """Return the request with its image and mask as the pipeline takes them, instead of their files.

        `strength`: another one.
        """
        strength = self.strength if strength is None else strength
        return replace(self, source=source, image=None, mask=None, strength=strength)

    def for_each_image(self) -> list[CompletedRequest]:
        """Return the requests for each single image."""
        return [replace(self, seed=self.seed + number, num_images=1) for number in range(self.num_images)]
