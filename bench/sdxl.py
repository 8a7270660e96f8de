"""Time SDXL base and refiner at their real size, with synthetic weights, against plain diffusers.

`python -m bench.sdxl` on a machine with a GPU; the weights are made on it, nothing is read or downloaded.
Their values do not change how long they take. Both flows run in one process on one copy of the UNets and text
encoders (so diffusers has our memory layout, too), and the runs of one repeat are interleaved: each flow,
eager and compiled, one after the other, then again. `--tiny` runs narrow networks and small images, on a CPU
as well.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image

from atelier_generator.autoencoder import Autoencoder
from atelier_generator.models import Models, load_base, load_refiner, place
from atelier_generator.nets import published
from atelier_generator.nets.stored import CLASSES, StoredNetwork
from atelier_generator.nets.stored_pipeline import StoredPipeline
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_runtime import defaults
from atelier_runtime.device import choose_device, choose_dtype, device_name
from atelier_runtime.model_defaults import ModelDefaults
from atelier_runtime.vram import probe_for
from atelier_runtime.weights import ModelSet
from bench.report import machine, print_json, spread
from bench.synthetic_sdxl import narrow, weights

PROMPT = "portrait of a smiling woman with long brown hair, blue background"
NEGATIVE_PROMPT = "blurry"


@dataclass(frozen=True)
class SyntheticNetwork(StoredNetwork):
    """A network with synthetic weights in place of stored ones."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def load(self, dtype: torch.dtype, contents: object = None) -> Any:
        """Return the network on its device."""
        return weights(self.part, self.config, dtype=dtype, device=self.device)


@dataclass(frozen=True)
class Case:
    """One kind of image, in both flows."""

    name: str
    side: int
    steps: int
    hires: bool

    @property
    def base_side(self) -> int:
        """Side of the base pass in px."""
        return round(self.side * defaults.HIRES_BASE_SCALE) if self.hires else self.side


@dataclass(frozen=True)
class Run:
    """Seconds and peak device memory of one image; `stages` are known only for our flow."""

    seconds: float
    peak_bytes: int | None
    stages: dict[str, tuple[float, int | None]]


def synthetic_pipeline(kind: published.Kind, device: torch.device, tiny: bool) -> StoredPipeline:
    """Return base or refiner as if it were stored on disk."""
    configure = narrow if tiny else published.configuration
    parts = CLASSES if kind == "base" else ("unet",)
    networks = {
        part: SyntheticNetwork(part, configure(kind, part), (), {}, lambda names: {}, device=device)
        for part in parts
    }
    index = published.pipeline_index(kind)
    return StoredPipeline(
        path=Path(kind),
        layout="synthetic",
        kind=kind,
        networks=networks,
        settings={name: value for name, value in index.items() if isinstance(value, bool)},
        scheduler=lambda: diffusers.EulerDiscreteScheduler.from_config(
            dict(published.configuration(kind, "scheduler"))
        ),
        tokenizer=published.tokenizer,
    )


class OurFlow:
    """Images as the generator makes them."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.pipelines = [models.text_to_image, models.refiner]

    def generate(self, case: Case) -> dict[str, tuple[float, int | None]]:
        """Generate an image; return each stage's seconds and peak, summed over stages of the same name."""
        request = GenerateRequest(
            PROMPT,
            negative_prompt=NEGATIVE_PROMPT,
            width_px=case.side,
            height_px=case.side,
            num_inference_steps=case.steps,
            hires_fix=case.hires,
            use_refiner=case.hires,
            seed=1,
        )
        pipeline = Pipeline(self.models)
        generation = pipeline.generate(pipeline.complete(request))
        assert generation.refiner_applied == case.hires
        stages: dict[str, tuple[float, int | None]] = {}
        for report in generation.stages:
            seconds, peak = stages.get(report.stage, (0.0, None))
            peaks = [p for p in (peak, report.peak_vram_bytes) if p]
            stages[report.stage] = (seconds + report.seconds, max(peaks, default=None))
        return stages


class DiffusersFlow:
    """The same with diffusers' own pipelines, called as in its documentation."""

    def __init__(self, models: Models) -> None:
        base, refiner = models.text_to_image, models.refiner
        assert refiner is not None, "make_models makes one"
        # In float16 our VAE stays in float32; diffusers converts its own back and forth.
        vae = copy.deepcopy(base.vae).to(models.dtype)
        self.text_to_image: Any = StableDiffusionXLPipeline(
            **base.components | {"vae": vae}, add_watermarker=False
        )
        self.refiner: Any = StableDiffusionXLImg2ImgPipeline(
            **refiner.components | {"vae": vae}, requires_aesthetics_score=True, add_watermarker=False
        )
        self.pipelines: list[Any] = [self.text_to_image, self.refiner]
        for pipeline in self.pipelines:
            pipeline.set_progress_bar_config(disable=True)

    def generate(self, case: Case) -> dict[str, tuple[float, int | None]]:
        """Generate an image."""
        conditioning = {
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE_PROMPT,
            "guidance_scale": defaults.GUIDANCE_SCALE,
        }
        generator = torch.Generator("cpu").manual_seed(1)
        side = case.base_side
        image = self.text_to_image(
            width=side, height=side, num_inference_steps=case.steps, generator=generator, **conditioning
        ).images[0]
        if case.hires:
            upscaled = image.resize([round(side * defaults.HIRES_ENLARGEMENT)] * 2, Image.Resampling.LANCZOS)
            self.refiner(
                image=upscaled,
                strength=defaults.HIRES_STRENGTH,
                num_inference_steps=defaults.HIRES_STEPS,
                generator=generator,
                **conditioning,
            )
        return {}


class Switch:
    """Puts the compiled or the plain UNets into the pipelines; both share one copy of the weights."""

    def __init__(self, pipelines: Sequence[Any], backend: str) -> None:
        self._plain = [(pipeline, pipeline.unet) for pipeline in pipelines]
        # One graph for each shape: a hires image has two, and images of one size never recompile.
        compiled = {id(unet): torch.compile(unet, backend=backend, dynamic=False) for _, unet in self._plain}
        self._compiled = [(pipeline, compiled[id(unet)]) for pipeline, unet in self._plain]

    def set(self, mode: str) -> None:
        """`mode`: "eager" or "compiled"."""
        for pipeline, unet in self._compiled if mode == "compiled" else self._plain:
            pipeline.unet = unet


def timed(device: torch.device, generate: Callable[[], dict[str, tuple[float, int | None]]]) -> Run:
    """Time one run between two synchronizations of the device.

    The peak is that of our stages or, without stages, of the whole run: reading it resets it.
    """
    probe = probe_for(device)
    probe.synchronize()
    probe.reset_peak()
    start = time.perf_counter()
    stages = generate()
    probe.synchronize()
    seconds = time.perf_counter() - start
    peaks = [peak for _, peak in stages.values() if peak]
    return Run(seconds, max(peaks) if peaks else probe.peak_bytes(), stages)


def summary(runs: Sequence[Run]) -> dict[str, object]:
    """Return what several runs of one image took."""
    result: dict[str, object] = {"seconds": spread([run.seconds for run in runs])}
    result["peak_vram_bytes"] = max((run.peak_bytes for run in runs if run.peak_bytes), default=None)
    if runs[0].stages:
        result["stages"] = {
            name: {
                "seconds": spread([run.stages[name][0] for run in runs]),
                "peak_vram_bytes": max((p for run in runs if (p := run.stages[name][1])), default=None),
            }
            for name in runs[0].stages
        }
    return result


def measure(
    flows: dict[str, OurFlow | DiffusersFlow],
    switch: Switch,
    modes: Sequence[str],
    case: Case,
    repeats: int,
    device: torch.device,
) -> dict[str, object]:
    """Run one case: each flow in each mode once uncounted, then all in turn, `repeats` times."""
    order = [(mode, name) for mode in modes for name in flows]
    first: dict[str, float] = {}
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for repeat in range(repeats + 1):
        for mode, name in order:
            switch.set(mode)
            run = timed(device, partial(flows[name].generate, case))
            if repeat:
                runs[mode, name].append(run)
            else:
                first[f"{name}, {mode}"] = round(run.seconds, 3)
    result: dict[str, object] = {"first_image_seconds": first}
    for (mode, name), samples in runs.items():
        result[f"{name}, {mode}"] = summary(samples)
    for mode in modes:
        pairs = zip(runs[mode, "atelier"], runs[mode, "diffusers"], strict=True)
        result[f"diffusers / atelier, {mode}"] = spread([b.seconds / a.seconds for a, b in pairs])
    return result


def make_models(device: torch.device, dtype: torch.dtype, tiny: bool) -> Models:
    """Build base and refiner with synthetic weights on a device."""
    text_to_image = load_base(synthetic_pipeline("base", device, tiny), device, dtype)
    refiner = load_refiner(synthetic_pipeline("refiner", device, tiny), text_to_image, device, dtype)
    return Models(
        model_set=ModelSet(
            hash="",
            name="synthetic",
            folder=Path(),
            license="none",
            max_side=None,
            refiner_max_side=None,
            size_multiple=8,
            defaults=ModelDefaults(),
            prediction_type=None,
            zero_terminal_snr=None,
            max_prompt_chunks=None,
            clip_skip=2,
            preview_colors=None,
            guidance_rescale=0.0,
            match_tone=False,
            identity=None,
            components={},
            files={},
        ),
        device=device,
        dtype=dtype,
        text_to_image=text_to_image,
        refiner=refiner,
        autoencoder=Autoencoder(text_to_image.vae),
        upscaler=None,
        placement=place(text_to_image, refiner, device),
    )


def run(
    *, tiny: bool, device: torch.device, dtype: torch.dtype, repeats: int, backend: str | None
) -> dict[str, object]:
    """Run the benchmark and return its result. `backend`: torch.compile's, None for no compiled runs."""
    diffusers.utils.logging.set_verbosity_error()  # it warns about conversions that are intended
    models = make_models(device, dtype, tiny)
    flows: dict[str, OurFlow | DiffusersFlow] = {
        "atelier": OurFlow(models),
        "diffusers": DiffusersFlow(models),
    }
    pipelines = [pipeline for flow in flows.values() for pipeline in flow.pipelines]
    switch = Switch(pipelines, backend or "eager")
    modes = ["eager", "compiled"] if backend else ["eager"]
    side, steps = (256, 2) if tiny else (1024, 30)
    cases = [
        Case(f"{side}x{side}, {steps} steps", side, steps, hires=False),
        Case(f"{side}x{side}, {steps} steps, hires fix with refiner", side, steps, hires=True),
    ]
    result: dict[str, object] = {
        "machine": machine() | {"device": device_name(device)},
        "networks": "narrow" if tiny else "real size",
        "dtype": str(dtype).removeprefix("torch."),
        "vae_dtype": str(models.text_to_image.vae.dtype).removeprefix("torch."),
        "compile_backend": backend,
        "weights_vram_bytes": torch.cuda.memory_allocated(device) if device.type == "cuda" else None,
    }
    for case in cases:
        result[case.name] = measure(flows, switch, modes, case, repeats, device)
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="narrow networks and small images")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backend", default="inductor", help="torch.compile backend; none: no compiled runs")
    given = parser.parse_args()
    device = choose_device(given.device)
    if device.type == "cpu" and not given.tiny:
        parser.error("the real size needs a GPU; --tiny runs anywhere")
    dtype = choose_dtype(given.dtype, device)
    backend = None if given.backend == "none" else given.backend
    print_json(run(tiny=given.tiny, device=device, dtype=dtype, repeats=given.repeats, backend=backend))


if __name__ == "__main__":
    main()
