"""Compiles CodeFormer and warms it up at every batch size that it runs at.

    blocks   residual, attention and fusion blocks and transformer layers: each compiles once per shape
    max      the encoder as a whole, the rest block by block, with kernels tuned by trial

The other networks run once per image and are not compiled: RetinaFace's input has the image's own shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_restorer.nets.codeformer_blocks import AttentionBlock, Fusion, ResBlock, TransformerLayer
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.compilation import INDUCTOR, Backend, Pass, compile_part, warm_up

_BLOCKS = (ResBlock, AttentionBlock, TransformerLayer, Fusion)


def compile_codeformer(
    restorer: FaceRestorer, settings: RestorerSettings, *, max_batch: int, backend: Backend = INDUCTOR
) -> None:
    """Compile the network, if the settings say so, and warm it up; on the device thread.

    Afterwards nothing is compiled: a batch larger than `max_batch` runs eagerly. Raises `StartupError`.
    """
    if settings.compile == "off":
        return
    whole = (restorer.network.encoder,) if settings.compile == "max" else ()
    for part in _parts(restorer.network, whole):
        part.register_forward_pre_hook(_canonical)
        compile_part(part, settings.compile, backend)
    warm_up(settings, list(_passes(restorer, max_batch)))


def _parts(network: CodeFormer, whole: tuple[nn.Module, ...]) -> Iterator[nn.Module]:
    """Yield `whole`, and the blocks that are not inside another part."""

    def below(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if child in whole or isinstance(child, _BLOCKS):
                yield child
            else:
                yield from below(child)

    return below(network)


def _canonical(part: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give rows taken out of a batch the strides of a batch of their own; others are not copied."""
    return tuple(_own_strides(value) if isinstance(value, torch.Tensor) else value for value in args)


def _own_strides(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim != 4 or not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.contiguous()
    count, channels, height, width = tensor.shape
    # A batch of one row, or a map of one channel, may have any stride there, and guards compare them all.
    return tensor.as_strided(
        (count, channels, height, width), (channels * height * width, 1, width * channels, channels)
    )


def _passes(restorer: FaceRestorer, max_batch: int) -> Iterator[Pass]:
    for count in restorer.batch_sizes(max_batch):
        crops = np.zeros((count, CROP_SIZE, CROP_SIZE, 3), np.uint8)
        decodes = [(row, 0.5) for row in range(count)]
        yield f"{count} faces", partial(restorer.restore, crops, decodes, max_batch=max_batch)
