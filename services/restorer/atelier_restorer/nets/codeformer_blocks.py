"""The building blocks of CodeFormer: what its encoder, its transformer, its generator and its fusion repeat.

The names of the attributes are those of the tensors in the published `codeformer.pth`. codeformer.py names
the paper. This module depends on nothing but torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier_restorer.nets.codeformer_config import CodeFormerConfig

_RUN = 1024  # pixels whose sum torch takes value by value
# Which rows of a 3x3 kernel see the same row of a map whose rows are doubled. For the upper of two output
# rows: the first alone, and the other two; for the lower one: the first two, and the last.
_FOLDED_ROWS = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


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
        in_place = not torch.is_grad_enabled()  # new memory costs as much as the function itself
        y: Tensor = self.conv1(F.silu(self.norm1(x), inplace=in_place))
        y = self.conv2(F.silu(self.norm2(y), inplace=in_place))
        y += self.conv_out(x)
        return y


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
        self.register_buffer("folded", None, persistent=False)

    def fold(self) -> None:
        """Prepare for a forward pass with 4/9 of the multiplications; the weights must not change afterwards.

        Of the nine pixels that the kernel sees of the doubled map only four differ: those of two rows and two
        columns of the map itself. Weights of equal pixels are added up, for each of the four positions that
        an output pixel can have.
        """
        sums = torch.tensor(_FOLDED_ROWS)
        self.folded = torch.einsum("ray,cbx,oiyx->rcoiab", sums, sums, self.conv.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        if self.folded is None:
            output: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            return output
        count, channels, height, width = x.shape
        output = torch.empty(
            (count, channels, 2 * height, 2 * width),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        for row in (0, 1):
            for column in (0, 1):
                padded = F.pad(x, (1 - column, column, 1 - row, row))
                output[:, :, row::2, column::2] = F.conv2d(padded, self.folded[row, column], self.conv.bias)
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
        change = torch.addcmul(self.shift(mixed), decoded, self.scale(mixed))
        return torch.addcmul(decoded, fidelity, change)


class GroupNorm(nn.GroupNorm):
    """torch's, but as exact in the memory format channels_last as in the contiguous one.

    On a CPU torch sums up a channel of a float32 map in channels_last value by value, which puts the largest
    layer off by 8e-4 and the code logits by 4e-4. Here the statistics of short runs are combined: Chan, Golub
    and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if torch.compiler.is_compiling():  # compiled sums combine statistics too
            return super().forward(x)
        in_channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        if not in_channels_last or x.device.type != "cpu" or x.dtype != torch.float32 or x.requires_grad:
            return super().forward(x)
        if len(x) > 1:
            return torch.cat([self.forward(one) for one in x.split(1)])
        pixels = x.permute(0, 2, 3, 1).flatten(0, 2)
        runs = pixels.split(_RUN)
        statistics = [torch.batch_norm_update_stats(run, None, None, 0.0) for run in runs]
        means, variances = (torch.stack(values) for values in zip(*statistics, strict=True))
        shares = torch.tensor([[len(run) / len(pixels)] for run in runs])
        of_channels = _combined(means, variances, shares, dim=0)
        means, variances = (values.view(self.num_groups, -1) for values in of_channels)
        of_groups = _combined(means, variances, torch.tensor(1 / means.shape[1]), dim=1)
        mean, variance = (values.expand_as(means).reshape(-1) for values in of_groups)
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)


def _combined(means: Tensor, variances: Tensor, shares: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance of parts together, which make up these shares of the whole, along `dim`."""
    mean = (means * shares).sum(dim, keepdim=True)
    return mean, ((variances + (means - mean) ** 2) * shares).sum(dim, keepdim=True)


def norm(config: CodeFormerConfig, channels: int) -> GroupNorm:
    """Return the normalization of a feature map."""
    return GroupNorm(config.norm_groups(channels), channels, eps=1e-6)


def middle(config: CodeFormerConfig, width: int) -> list[nn.Module]:
    """Return the blocks that encoder and generator have at their smallest feature map."""
    return [ResBlock(config, width, width), AttentionBlock(config, width), ResBlock(config, width, width)]


def _two_convolutions(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
    )
