"""SDXL base and refiner at their real size on a CUDA device, with random weights; run by `make test-gpu`.

The weights take 12 GB. The peak is reached when an image of 1536 px is decoded in float32, in one piece.
"""

from __future__ import annotations

import pytest
import torch

from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_runtime.model_defaults import ModelDefaults
from bench.sdxl import make_models

pytestmark = pytest.mark.gpu

NEEDED_BYTES = 40 * 2**30


@pytest.mark.parametrize(("dtype", "vae"), [("bfloat16", "bfloat16"), ("float16", "float32")])
def test_base_hires_and_refiner_generate(dtype, vae):
    device = torch.device("cuda", 0)
    if torch.cuda.mem_get_info(device)[0] < NEEDED_BYTES:
        pytest.skip("too little device memory is free")
    models = make_models(device, getattr(torch, dtype), tiny=False)
    assert models.refiner is not None and models.text_to_image.vae.dtype == getattr(torch, vae)
    parameters = [models.text_to_image.unet.num_parameters(), models.refiner.unet.num_parameters()]
    assert parameters == [2_567_463_684, 2_259_526_660]
    for hires, side in ((False, 1024), (True, 1536)):
        request = GenerateRequest("a cat", num_inference_steps=4, seed=1, hires_fix=hires).completed(
            ModelDefaults()
        )
        generation = Pipeline(models).generate(request, check=lambda: None, emit=lambda progress: None)
        assert generation.pixels.shape == (side, side, 3)
        assert generation.refiner_applied and generation.warnings == ()
        assert all(stage.peak_vram_bytes for stage in generation.stages)
