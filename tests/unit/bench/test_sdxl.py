"""The SDXL bench runs without a GPU, and reports what it should."""

from typing import Any

import pytest
import torch

from bench import sdxl


@pytest.mark.slow
def test_narrow_networks_run_through_both_flows() -> None:
    torch.compiler.reset()
    result: dict[str, Any] = sdxl.run(
        tiny=True, device=torch.device("cpu"), dtype=torch.float32, repeats=1, backend="eager"
    )
    modes = ["eager", "compiled"]
    plain, hires = (value for key, value in result.items() if key.startswith("256x256"))
    for case, stages in (
        (plain, ["text", "base", "decode"]),
        (hires, ["text", "base", "decode", "upscale", "encode_latents", "hires"]),
    ):
        assert len(case["first_image_seconds"]) == 2 * len(modes)
        for mode in modes:
            assert list(case[f"atelier, {mode}"]["stages"]) == stages
            assert case[f"diffusers, {mode}"]["seconds"]["n"] == 1
            ratio = case[f"diffusers / atelier, {mode}"]["median"]
            seconds = [case[f"{flow}, {mode}"]["seconds"]["median"] for flow in ("diffusers", "atelier")]
            assert ratio == pytest.approx(seconds[0] / seconds[1], rel=1e-2)
            assert case[f"atelier, {mode}"]["peak_vram_bytes"] is None, "there is no device memory"


def test_compiled_networks_share_the_weights_and_can_be_removed_again() -> None:
    models = sdxl.make_models(torch.device("cpu"), torch.float32, tiny=True)
    ours = sdxl.OurFlow(models)
    plain = models.text_to_image.unet
    switch = sdxl.Switch(ours.pipelines, "eager")
    switch.set("compiled")
    compiled = models.text_to_image.unet
    assert compiled is not plain
    assert next(compiled.parameters()) is next(plain.parameters())
    assert models.refiner is not None and models.refiner.unet is not compiled
    switch.set("eager")
    assert models.text_to_image.unet is plain
