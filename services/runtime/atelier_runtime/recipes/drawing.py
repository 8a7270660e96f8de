"""The recipe of a drawing, and the infotext that follows from it.

A recipe names everything as `POST /generate` does, so that its request can be sent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atelier_runtime import __version__, defaults
from atelier_runtime.recipes import infotext, names
from atelier_runtime.recipes.marks import COMPOSITE, DRAWN, VERSION, Marks

KIND = "drawing"
_HASH_DIGITS = 10
"""Of a model's hash in infotexts."""
_RESTORER = "CodeFormer"


@dataclass(frozen=True)
class Drawing:
    """How one image was drawn.

    `request`: by the names of `POST /generate`, with the values that were used, the seed of its first image
    among them. `seed`: this image's, `number` its place among `images`, from 1. `size`: that of the file.
    `hires_strength`: of the second pass as it ran, which a model set may limit, while the request stays as it
    was asked, to be drawn again. `upscalers`: all that enlarged it, in order. `started_from`: SHA-256 of the
    files that it started from. `restoration`: what was done to its faces, None if that was not asked for.
    `warnings`: their codes.
    """

    request: Mapping[str, Any]
    seed: int
    number: int
    images: int
    model_set: str
    model_set_hash: str
    device: str
    size: tuple[int, int]
    refiner_applied: bool = False
    hires_fix_applied: bool = False
    hires_strength: float | None = None
    upscalers: Sequence[str] = ()
    upscale_applied: int = 1
    started_from: Mapping[str, str] | None = None
    restoration: Mapping[str, Any] | None = None
    warnings: Iterable[str] = ()

    def recipe(self) -> dict[str, Any]:
        """Return the recipe, a JSON object."""
        recipe: dict[str, Any] = {
            "version": VERSION,
            "kind": KIND,
            "software": f"Atelier {__version__}",
            "request": dict(self.request),
            "seed": self.seed,
            "image": [self.number, self.images],
            "model_set": {"name": self.model_set, "hash": self.model_set_hash},
            "device": self.device,
            "size": list(self.size),
            "refiner_applied": self.refiner_applied,
            "hires_fix_applied": self.hires_fix_applied,
            "upscale_applied": self.upscale_applied,
        }
        optional = {
            "hires_strength": self.hires_strength,
            "upscalers": list(self.upscalers),
            "started_from": self.started_from,
            "restoration": self.restoration,
            "warnings": list(dict.fromkeys(self.warnings)),
        }
        return recipe | {name: value for name, value in optional.items() if value}

    def infotext(self) -> str:
        """Return the text of AUTOMATIC1111's web UI."""
        request = self.request
        tags = "".join(f" <lora:{each['name']}:{each['weight']:g}>" for each in request.get("loras", ()))
        prompts = [request["prompt"], request.get("negative_prompt") or ""]
        if request.get("prompt_syntax", defaults.PROMPT_SYNTAX) == "plain":  # the web UI knows weights only
            prompts = [infotext.escaped(prompt) for prompt in prompts]
        return infotext.write(f"{prompts[0]}{tags}", prompts[1], self._parameters())

    def marks(self) -> Marks:
        """Return what is written into the file."""
        return Marks(self.recipe(), self.infotext(), self.source_type)

    @property
    def source_type(self) -> str:
        """IPTC's term: what a mask keeps, or a strength of 0 reproduces, may be a photograph's."""
        started_from = self.started_from or {}
        reproduced = "image_sha256" in started_from and self.request.get("strength") == 0
        if "mask_sha256" in started_from or (reproduced and not self.refiner_applied):
            return COMPOSITE
        return DRAWN

    def _parameters(self) -> Iterator[tuple[str, object]]:
        request = self.request
        width, height = self._base_size()
        yield "Steps", request["num_inference_steps"]
        yield "Sampler", names.shown_sampler(request["sampler"])
        yield "Schedule type", names.shown_schedule(request["schedule"])
        yield "CFG scale", request["guidance_scale"]
        yield "Seed", self.seed
        yield "Face restoration", _RESTORER if self._is_restored_by_codeformer else None
        yield "Size", f"{width}x{height}"
        yield "Model hash", self.model_set_hash[:_HASH_DIGITS]
        yield "Model", self.model_set
        hires_pass = request.get("hires_pass")
        strength = request.get("strength")
        if hires_pass is not None:
            strength = hires_pass["strength"] if self.hires_strength is None else self.hires_strength
        elif request.get("hires_fix"):
            strength = defaults.HIRES_STRENGTH
        yield "Denoising strength", strength
        yield "Mask blur", request.get("mask_blur_px")
        yield from self._hires(hires_pass)
        if self.refiner_applied and not self.hires_fix_applied:
            yield "Refiner", f"{self.model_set} [{self.model_set_hash[:_HASH_DIGITS]}]"
            yield "Refiner switch at", round(1 - request["refiner_strength"], 4)
        simply = bool(request.get("hires_fix_simple"))
        scale = (request["hires_scale"] if simply else 1) * self.upscale_applied
        if simply or scale > 1:
            by = self.upscalers if simply else self.upscalers[-1:]
            yield "Postprocess upscale by", scale
            yield "Postprocess upscaler", " + ".join(by)
        yield "Version", f"Atelier {__version__}"

    @property
    def _is_restored_by_codeformer(self) -> bool:
        """Whether a face was restored, and by a network with a fidelity; others are not named."""
        faces = (self.restoration or {}).get("faces", ())
        return any(face["restored"] and "fidelity" in face for face in faces)

    def _hires(self, hires_pass: Mapping[str, Any] | None) -> Iterator[tuple[str, object]]:
        upscaler = self.upscalers[0] if self.upscalers else None
        if hires_pass is not None:
            yield "Hires resize", f"{hires_pass['width']}x{hires_pass['height']}"
            yield "Hires steps", hires_pass["num_inference_steps"]
            yield "Hires upscaler", upscaler
        elif self.request.get("hires_fix"):
            yield "Hires upscale", defaults.HIRES_ENLARGEMENT
            yield "Hires steps", defaults.HIRES_STEPS
            yield "Hires upscaler", upscaler

    def _base_size(self) -> tuple[int, int]:
        """Return the size that was drawn before anything enlarged it."""
        request = self.request
        if "width" not in request:  # that of the image that it started from
            scale = self.upscale_applied * request.get("hires_scale", 1)
            return round(self.size[0] / scale), round(self.size[1] / scale)
        share = defaults.HIRES_BASE_SCALE if request.get("hires_fix") else 1
        return round(request["width"] * share), round(request["height"] * share)
