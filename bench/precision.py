"""What 16 bits change in an image, part by part: the demo models on a CPU against the same in float32.

For each part the rest stays in float32. Levels are of 255, over all pixels of all images. With `--compiled`:
what compiled networks change against eager ones, in either dtype; that takes minutes to compile.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from atelier_generator.autoencoder import Autoencoder
from atelier_generator.compilation import compile_networks
from atelier_generator.models import load_base, load_models
from atelier_generator.nets.reading import read_pipeline
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_runtime import defaults
from atelier_runtime.compilation import prepare
from atelier_runtime.model_defaults import ModelDefaults
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import Compile
from atelier_runtime.weights import ModelSet
from bench.report import machine, print_json

PROMPTS = (
    "portrait of a smiling woman with long brown hair, blue background",
    "a red house under a blue sky",
    "a green apple on a table",
    "a yellow car on a road",
)
CPU = torch.device("cpu")
EMBEDDINGS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)


class BasePipeline:
    """One base pipeline in one dtype, VAE included."""

    def __init__(self, path: Path, dtype: torch.dtype, guidance_rescale: float) -> None:
        self.dtype = dtype
        self._pipeline = load_base(read_pipeline(path), CPU, dtype)
        self._pipeline.vae.to(dtype)
        self._guidance_rescale = guidance_rescale

    def embeddings(self, prompt: str) -> list[torch.Tensor]:
        """Return the embeddings of a prompt."""
        embeddings: Sequence[torch.Tensor] = self._pipeline.encode_prompt(
            prompt=prompt, device=CPU, do_classifier_free_guidance=True, negative_prompt="blurry"
        )
        return list(embeddings)

    def latents(
        self, embeddings: Sequence[torch.Tensor], seed: int, rounded: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Return the final latents; `rounded`: the dtype that they are rounded to after each step."""
        pipeline = self._pipeline
        side = pipeline.default_sample_size
        shape = (1, pipeline.unet.config.in_channels, side, side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))

        def after_step(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            return {name: tensor.to(rounded).to(tensor.dtype) for name, tensor in tensors.items()}

        output = pipeline(
            latents=noise.to(self.dtype),
            num_inference_steps=defaults.NUM_INFERENCE_STEPS,
            guidance_scale=defaults.GUIDANCE_SCALE,
            guidance_rescale=self._guidance_rescale,
            output_type="latent",
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=["latents"],
            return_dict=False,
            **{name: value.to(self.dtype) for name, value in zip(EMBEDDINGS, embeddings, strict=True)},
        )
        latents: torch.Tensor = output[0]
        return latents

    def image(self, latents: torch.Tensor) -> np.ndarray:
        """Return the decoded image as integers that can be subtracted."""
        return Autoencoder(self._pipeline.vae).decode(latents, tiled=False).astype(int)


def differences(exact: BasePipeline, low: BasePipeline, prompt: str, seed: int) -> dict[str, np.ndarray]:
    """Return the absolute differences from the float32 image, with each part in 16 bits, then with all."""
    embeddings, low_embeddings = exact.embeddings(prompt), low.embeddings(prompt)
    latents = exact.latents(embeddings, seed)
    images = {
        "vae": low.image(latents),
        "text encoders": exact.image(exact.latents(low_embeddings, seed)),
        "unet": exact.image(low.latents(embeddings, seed).float()),
        "latents between steps": exact.image(exact.latents(embeddings, seed, rounded=low.dtype)),
        "everything": low.image(low.latents(low_embeddings, seed)),
    }
    expected = exact.image(latents)
    return {part: np.abs(image - expected) for part, image in images.items()}


def compiled_differences(model_set: str, mode: Compile, dtype: str) -> list[np.ndarray]:
    """Return the absolute differences between the base's images with compiled and with eager networks."""
    settings = GeneratorSettings(
        device="cpu", model_set=model_set, dtype=dtype, compile=mode, warm_sizes="256x256"
    )
    pipelines = {}
    for name in ("eager", "compiled"):
        models = replace(load_models(settings), refiner=None)
        pipelines[name] = Pipeline(models)
        if name == "compiled":
            prepare(settings)
            compile_networks(models, settings)
    found = []
    for seed, prompt in enumerate(PROMPTS):
        request = GenerateRequest(
            prompt, "blurry", 256, 256, seed=seed, use_refiner=False, use_upscaler=False
        ).completed(ModelDefaults())
        eager, compiled = (
            pipelines[name].generate(request).pixels.astype(int) for name in ("eager", "compiled")
        )
        found.append(np.abs(compiled - eager))
    return found


def _levels(differences: Sequence[np.ndarray]) -> dict[str, float]:
    return {
        "mean": round(float(np.mean(differences)), 3),
        "p99": float(np.percentile(differences, 99)),
        "max": int(np.max(differences)),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-set", default="demo")
    parser.add_argument("--compiled", choices=("blocks", "max"))
    given = parser.parse_args()
    if given.compiled:
        dtypes = ("float32", "bfloat16")
        levels = {d: _levels(compiled_differences(given.model_set, given.compiled, d)) for d in dtypes}
        print_json({"machine": machine(), "model_set": given.model_set, "mode": given.compiled, **levels})
        return
    diffusers.utils.logging.set_verbosity_error()  # it warns about conversions that are intended
    model_set = ModelSet.open(given.model_set)
    path = model_set.require(NetworkRole.BASE).path
    exact = BasePipeline(path, torch.float32, model_set.guidance_rescale)
    result: dict[str, object] = {"machine": machine(), "model_set": model_set.name, "images": len(PROMPTS)}
    for dtype in (torch.bfloat16, torch.float16):
        low = BasePipeline(path, dtype, model_set.guidance_rescale)
        with torch.inference_mode():
            found = [differences(exact, low, prompt, seed) for seed, prompt in enumerate(PROMPTS)]
        result[str(dtype).removeprefix("torch.")] = {
            part: _levels([f[part] for f in found]) for part in found[0]
        }
    print_json(result)


if __name__ == "__main__":
    main()
