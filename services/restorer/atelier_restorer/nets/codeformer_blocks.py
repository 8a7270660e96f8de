"""The building blocks of CodeFormer: what its encoder, its transformer, its generator and its fusion repeat.

The names of the attributes are those of the tensors in the published `codeformer.pth`. codeformer.py names
the paper. This module depends on nothing but torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier_restorer.nets.codeformer_config import CodeFormerConfig


class ResBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm and swish, and a 1x1 shortcut where the width changes."""

    def __init__(self, config: CodeFormerConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = norm(config, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norm(config, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.conv_out = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H, W)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        output: Tensor = self.conv_out(x) + y
        return output


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions of a feature map."""

    def __init__(self, config: CodeFormerConfig, channels: int) -> None:
        super().__init__()
        self.norm = norm(config, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        y = self.norm(x)
        q, k, v = (conv(y).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        output: Tensor = x + self.proj_out(y.squeeze(1).transpose(1, 2).reshape(x.shape))
        return output


class Downsample(nn.Module):
    """Halve a feature map. The zero padding is on the right and bottom only, as in VQGAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H/2, W/2)."""
        output: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return output


class Upsample(nn.Module):
    """Double a feature map by nearest-neighbor interpolation, then smooth it with a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        output: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return output


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer; position embeddings are added to queries and keys only."""

    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(config.transformer_dim, config.heads, batch_first=True)
        self.linear1 = nn.Linear(config.transformer_dim, config.mlp_dim)
        self.linear2 = nn.Linear(config.mlp_dim, config.transformer_dim)
        self.norm1 = nn.LayerNorm(config.transformer_dim)
        self.norm2 = nn.LayerNorm(config.transformer_dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(N, tokens, dim) and positions (tokens, dim) -> (N, tokens, dim)."""
        y = self.norm1(x)
        positioned = y + positions
        x = x + self.self_attn(positioned, positioned, y, need_weights=False)[0]
        output: Tensor = x + self.linear2(F.gelu(self.linear1(self.norm2(x))))
        return output


class Fusion(nn.Module):
    """Controllable feature transformation (paper, section 3.3): modulates a generator feature."""

    def __init__(self, config: CodeFormerConfig, channels: int) -> None:
        super().__init__()
        self.encode_enc = ResBlock(config, 2 * channels, channels)
        self.scale = _two_convolutions(channels)
        self.shift = _two_convolutions(channels)

    def forward(self, encoded: Tensor, decoded: Tensor, fidelity: Tensor) -> Tensor:
        """Two features (N, C, H, W) and weights (N, 1, 1, 1) -> the generator's feature, modulated."""
        mixed = self.encode_enc(torch.cat((encoded, decoded), dim=1))
        modulated: Tensor = decoded + fidelity * (decoded * self.scale(mixed) + self.shift(mixed))
        return modulated


def norm(config: CodeFormerConfig, channels: int) -> nn.GroupNorm:
    """Return the normalization of a feature map."""
    return nn.GroupNorm(config.norm_groups(channels), channels, eps=1e-6)


def middle(config: CodeFormerConfig, width: int) -> list[nn.Module]:
    """Return the blocks that encoder and generator have at their smallest feature map."""
    return [ResBlock(config, width, width), AttentionBlock(config, width), ResBlock(config, width, width)]


def _two_convolutions(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels, channels, 3, padding=1),
    )
