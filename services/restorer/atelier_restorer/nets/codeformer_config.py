"""The sizes of a CodeFormer, inferred from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

_LAST_BLOCKS = 5  # an encoder ends with three middle blocks, a norm and a convolution
_HEAD_DIM = 64


@dataclass(frozen=True)
class CodeFormerConfig:
    """Sizes of a CodeFormer, in pixels or channels; the defaults are those of the published network.

    `heads`, `norm_groups` and `image_size` are derived from the other sizes, because tensor shapes do not
    determine them and a network must be loaded with the values that it was trained with.
    """

    base_width: int = 64
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4, 8)
    res_blocks: int = 2
    attention_sizes: tuple[int, ...] = (16,)
    latent_size: int = 16
    codebook_size: int = 1024
    codebook_dim: int = 256
    transformer_dim: int = 512
    transformer_layers: int = 9
    mlp_dim: int = 1024
    fusion_sizes: tuple[int, ...] = (32, 64, 128, 256)

    @property
    def levels(self) -> int:
        """Number of resolutions, the first at `image_size`, each of the others half the previous."""
        return len(self.channel_multipliers)

    @property
    def image_size(self) -> int:
        """Side of the square input and output, pixels."""
        return self.latent_size << (self.levels - 1)

    @property
    def heads(self) -> int:
        """Attention heads: 64 channels each as in the published network, or fewer heads if necessary."""
        most = max(1, self.transformer_dim // _HEAD_DIM)
        return next(heads for heads in range(most, 0, -1) if self.transformer_dim % heads == 0)

    def channels(self, level: int) -> int:
        """Channels at a resolution level, 0 being the largest."""
        return self.base_width * self.channel_multipliers[level]

    def size(self, level: int) -> int:
        """Side of the feature maps at a level, pixels."""
        return self.image_size >> level

    def norm_groups(self, channels: int) -> int:
        """Groups of a GroupNorm over `channels`.

        32 from the published width (64) on. Narrower networks would be left with one or two channels per
        group, which does not train; they have groups of 8 channels (fewer where 8 does not divide).
        """
        if self.base_width >= 64:
            return math.gcd(channels, 32)
        return channels // math.gcd(channels, 8)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> CodeFormerConfig:
        """Infer every size from the shapes of a state dict (values are not read; meta tensors will do).

        Raises:
            ValueError: a tensor that determines a size is missing, or its shape makes no sense.
        """
        blocks = _read_blocks(state, "encoder.blocks")
        levels: list[list[tuple[str, int]]] = [[]]
        for kind, channels in blocks[1:-_LAST_BLOCKS]:
            if kind == "resample":
                levels.append([])
            else:
                levels[-1].append((kind, channels))
        if len(blocks) <= _LAST_BLOCKS or blocks[0][0] != "conv" or not all(levels):
            raise ValueError("not a CodeFormer: encoder.blocks are not a pyramid of residual blocks")
        base_width = blocks[0][1]
        widths = [level[-1][1] for level in levels]
        if any(width % base_width for width in widths):
            raise ValueError(f"the encoder's channels {widths} are not multiples of its first, {base_width}")

        tokens, dim = _shape(state, "position_emb", 2)
        latent_size = math.isqrt(tokens)
        if latent_size**2 != tokens:
            raise ValueError(f"position_emb has {tokens} tokens, which do not form a square grid")
        image_size = latent_size << (len(levels) - 1)
        codebook_size, codebook_dim = _shape(state, "quantize.embedding.weight", 2)
        return cls(
            base_width=base_width,
            channel_multipliers=tuple(width // base_width for width in widths),
            res_blocks=sum(kind == "res" for kind, _ in levels[0]),
            attention_sizes=tuple(
                image_size >> i for i, level in enumerate(levels) if "attention" in dict(level)
            ),
            latent_size=latent_size,
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
            transformer_dim=dim,
            transformer_layers=len(_numbers(state, "ft_layers")),
            mlp_dim=_shape(state, "ft_layers.0.linear1.weight", 2)[0],
            fusion_sizes=tuple(_numbers(state, "fuse_convs_dict")),
        )


def _numbers(state: Mapping[str, Tensor], prefix: str) -> list[int]:
    """Return the distinct numbers that follow `prefix.` in the keys, ascending."""
    tails = (key[len(prefix) + 1 :] for key in state if key.startswith(prefix + "."))
    return sorted({int(number) for number in (tail.split(".", 1)[0] for tail in tails) if number.isdigit()})


def _shape(state: Mapping[str, Tensor], key: str, ndim: int) -> tuple[int, ...]:
    if key not in state:
        raise ValueError(f"not a CodeFormer: {key} is missing")
    shape = tuple(state[key].shape)
    if len(shape) != ndim:
        raise ValueError(f"{key} has {len(shape)} dimensions, not {ndim}")
    return shape


def _read_blocks(state: Mapping[str, Tensor], prefix: str) -> list[tuple[str, int]]:
    """Return the kind and the output channels of each block of an encoder, by the names of its tensors."""
    marks = (
        ("conv1.weight", "res"),
        ("q.weight", "attention"),
        ("conv.weight", "resample"),
        ("weight", "conv"),  # or a norm; their positions are fixed
    )
    blocks = []
    for number in _numbers(state, prefix):
        for mark, kind in marks:
            tensor = state.get(f"{prefix}.{number}.{mark}")
            if tensor is not None:
                blocks.append((kind, tensor.shape[0]))
                break
        else:
            raise ValueError(f"{prefix}.{number} is not a block of a CodeFormer")
    if not blocks:
        raise ValueError(f"not a CodeFormer: {prefix} is missing")
    return blocks
