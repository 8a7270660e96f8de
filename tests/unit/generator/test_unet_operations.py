"""The operations that are counted from a UNet's layers are those that PyTorch counts as it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from atelier_generator.models import Models
from atelier_generator.nets import published
from atelier_generator.unet_operations import count_operations


def counted_by_torch(unet: Any, side: int) -> float:
    """Run it on the meta device, where nothing is computed."""
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        unet(
            torch.empty(1, config.in_channels, side, side),
            torch.tensor(1.0),
            encoder_hidden_states=torch.empty(1, 77, config.cross_attention_dim),
            added_cond_kwargs={"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)},
        )
    return float(counter.get_total_flops())


def on_meta(configuration: Any) -> Any:
    network: Any = UNet2DConditionModel
    with torch.device("meta"):
        return network.from_config(configuration).eval()


@pytest.mark.parametrize("side", [16, 32, 64])
def test_of_a_tiny_unet(plain_models: Models, side: int) -> None:
    unet = on_meta(plain_models.text_to_image.unet.config)
    assert count_operations(unet).count(side**2) == pytest.approx(counted_by_torch(unet, side), rel=0.02)


def test_of_sdxl() -> None:
    unet = on_meta(published.configuration("base", "unet"))
    operations = count_operations(unet)
    assert operations.count(128**2) == pytest.approx(counted_by_torch(unet, 128), rel=0.02)
    quarter, whole = operations.count(64**2), operations.count(128**2)
    assert 4.2 < whole / quarter < 4.4, "attention grows with the square"
