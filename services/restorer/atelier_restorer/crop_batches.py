"""Batches of aligned crops: their sizes, the networks' input, and pixels from their output."""

from __future__ import annotations

import torch
from torch import Tensor

from atelier_restorer.batching import RestoredCrop
from atelier_runtime.images import RgbArray
from atelier_runtime.outcomes import SkipReason


def bucket(count: int, max_batch: int | None) -> int:
    """Return the batch size at which `count` rows run: the next power of two, at most `max_batch` if given.

    More rows than `max_batch` stay as many as they are.
    """
    power = 1 << (count - 1).bit_length()
    return power if max_batch is None else max(count, min(power, max_batch))


def network_input(
    crops: RgbArray, rows: list[int], device: torch.device, memory_format: torch.memory_format
) -> Tensor:
    """Return these rows of uint8 crops (N, 512, 512, 3) as float32 of -1 to 1, (rows, 3, 512, 512)."""
    x = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2)
    x = x[rows].contiguous(memory_format=memory_format)
    return (x.float() / 255.0 - 0.5) / 0.5


def restored_crops(output: Tensor) -> list[RestoredCrop]:
    """Return a network's output, float32 of -1 to 1 (N, 3, 512, 512), as uint8 crops (512, 512, 3).

    The output is changed. One with non-finite values yields `NOT_FINITE`; the others are not affected.
    """
    finite = torch.isfinite(output).flatten(1).all(dim=1).tolist()
    pixels = output.clamp_(-1, 1).add_(1).mul_(127.5).round_().nan_to_num_().to(torch.uint8)
    crops = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [crop if finite[row] else SkipReason.NOT_FINITE for row, crop in enumerate(crops)]
