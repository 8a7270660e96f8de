"""CodeFormer: restores a face by predicting its codes in a learned codebook of face parts.

Zhou et al., "Towards Robust Blind Face Restoration with Codebook Lookup Transformer", NeurIPS 2022
(arXiv:2206.11253). An encoder turns the degraded face into a grid of features, from which a transformer
predicts one code per grid cell, and a generator turns the codes into a face. On request, features of the
encoder are fused into the generator ("controllable feature transformation"), so that the result stays closer
to the input.

Keys and shapes of the state dict are those of the published `codeformer.pth`. Every size is inferred from the
tensors by `CodeFormerConfig.from_state_dict`, so a narrower network is the same class. The building blocks
are in codeformer_blocks.py. This module depends on nothing but torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atelier_restorer.nets.checkpoint import load_exactly
from atelier_restorer.nets.codeformer_blocks import (
    AttentionBlock,
    Downsample,
    Fusion,
    ResBlock,
    TransformerLayer,
    Upsample,
    middle,
    norm,
)
from atelier_restorer.nets.codeformer_config import CodeFormerConfig

__all__ = ["CodeFormer", "CodeFormerConfig", "CodeFormerOutput", "match_statistics"]

_ADAIN_EPS = 1e-5


class Encoder(nn.Module):
    """Image to latent grid; `taps` maps the index of a block to the side of the feature map to fuse."""

    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(3, config.base_width, 3, padding=1)]
        self.taps: dict[int, int] = {}
        width = config.base_width
        for level in range(config.levels):
            size = config.size(level)
            for _ in range(config.res_blocks):
                blocks.append(ResBlock(config, width, config.channels(level)))
                width = config.channels(level)
                if size in config.attention_sizes:
                    blocks.append(AttentionBlock(config, width))
            if size in config.fusion_sizes:
                self.taps[len(blocks) - 1] = size
            if level < config.levels - 1:
                blocks.append(Downsample(width))
        blocks += middle(config, width)
        blocks += [norm(config, width), nn.Conv2d(width, config.codebook_dim, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """(N, 3, S, S) -> features to fuse by their side in pixels, latent (N, codebook_dim, L, L)."""
        features: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                features[self.taps[index]] = x
        return features, x


class Generator(nn.Module):
    """Latent grid to image; `taps` maps the index of a block to the side of the feature map to fuse."""

    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        width = config.channels(config.levels - 1)
        first = nn.Conv2d(config.codebook_dim, width, 3, padding=1)
        blocks: list[nn.Module] = [first, *middle(config, width)]
        self.taps: dict[int, int] = {}
        for level in reversed(range(config.levels)):
            size = config.size(level)
            for number in range(config.res_blocks):
                blocks.append(ResBlock(config, width, config.channels(level)))
                width = config.channels(level)
                if number == 0 and size in config.fusion_sizes:
                    self.taps[len(blocks) - 1] = size
                if size in config.attention_sizes:
                    blocks.append(AttentionBlock(config, width))
            if level > 0:
                blocks.append(Upsample(width))
        blocks += [norm(config, width), nn.Conv2d(width, 3, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(N, codebook_dim, L, L) -> (N, 3, S, S), without fusion."""
        for block in self.blocks:
            x = block(x)
        return x


class Codebook(nn.Module):
    """The learned face parts: row i of `embedding` is the latent of code i."""

    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.codebook_dim)

    def forward(self, codes: Tensor) -> Tensor:
        """Integer codes (N, L, L) -> latent (N, codebook_dim, L, L)."""
        latent: Tensor = self.embedding(codes).permute(0, 3, 1, 2).contiguous()
        return latent


@dataclass(frozen=True)
class CodeFormerOutput:
    """What a forward pass computes; `tokens` is L*L, row by row."""

    image: Tensor
    """(N, 3, S, S) RGB, about [-1, 1], not clamped; N is the number of decoded images."""
    code_logits: Tensor
    """(N, tokens, codebook_size)."""
    codes: Tensor
    """(N, L, L) int64, the argmax of the logits."""
    lq_feature: Tensor
    """(N, codebook_dim, L, L), the encoder's latent of the degraded face."""


class CodeFormer(nn.Module):
    """The complete network. Its steps can be called separately: encode, predict_codes, lookup, decode."""

    def __init__(self, config: CodeFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CodeFormerConfig()
        self.encoder = Encoder(config)
        self.quantize = Codebook(config)
        self.generator = Generator(config)
        self.position_emb = nn.Parameter(torch.zeros(config.latent_size**2, config.transformer_dim))
        self.feat_emb = nn.Linear(config.codebook_dim, config.transformer_dim)
        self.ft_layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.transformer_layers))
        self.idx_pred_layer = nn.Sequential(
            nn.LayerNorm(config.transformer_dim),
            nn.Linear(config.transformer_dim, config.codebook_size, bias=False),
        )
        widths = {config.size(level): config.channels(level) for level in range(config.levels)}
        if unknown := set(config.fusion_sizes) - set(widths):
            raise ValueError(f"fusion sizes {sorted(unknown)} are not among {sorted(widths)}")
        self.fuse_convs_dict = nn.ModuleDict(
            {str(size): Fusion(config, widths[size]) for size in config.fusion_sizes}
        )

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> CodeFormer:
        """Build the network that a state dict belongs to and load it; the tensors are assigned, not copied.

        Raises:
            ValueError: the tensors do not match a CodeFormer; the first ten that differ are listed.
        """
        with torch.device("meta"):
            network = cls(sizes_of(state))
        load_exactly(network, state)
        return network

    def prepare_for_cpu(self) -> CodeFormer:
        """Arrange the weights for fast inference on a CPU, in float32, and return self.

        They must not change afterwards, but for their dtype, see `set_dtypes`.
        """
        self.float()
        for module in self.modules():
            if isinstance(module, Upsample):
                module.fold()
        return self.to(memory_format=torch.channels_last)

    def set_dtypes(self, generator: torch.dtype, encoder: torch.dtype = torch.float32) -> CodeFormer:
        """Set the dtype of generator and fusion, and that in which codes are selected, and return self.

        Which code fits best is often decided by less than bfloat16 can resolve, and another code is another
        part of a face. This includes the encoder, because the codes follow from its latent. docs/parity.md
        has the figures.
        """
        for name, part in self.named_children():
            part.to(generator if name in ("generator", "fuse_convs_dict") else encoder)
        self.position_emb.data = self.position_emb.data.to(encoder)
        return self

    def forward(
        self,
        x: Tensor,
        fidelity: Tensor | float,
        adain: bool = True,
        indices: Sequence[int] | None = None,
        batch_size: Callable[[int], int] | None = None,
    ) -> CodeFormerOutput:
        """Restore faces: x (N, 3, S, S), RGB in [-1, 1]; fidelity 0 (best looking) to 1 (closest to x).

        `fidelity` is one number, or one per decoded image. With `adain` the looked-up latent gets the
        per-channel mean and standard deviation of the encoder's, which preserves the tone of the input.
        `indices`: the face of each decoded image, so that one encoded face can be decoded at several
        fidelities; None: each face once. `batch_size`: see `decode`.
        """
        features, lq_feature = self.encode(x)
        logits = self.predict_codes(lq_feature)
        codes = logits.argmax(dim=2).view(len(x), self.config.latent_size, self.config.latent_size)
        quantized = self.lookup(codes)
        if adain:
            quantized = match_statistics(quantized, lq_feature)
        if indices is not None and list(indices) != list(range(len(x))):
            rows = torch.tensor(indices, device=x.device)
            quantized = quantized[rows]
            features = {size: feature[rows] for size, feature in features.items()}
        image = self.decode(quantized, features, fidelity, batch_size)
        return CodeFormerOutput(image, logits, codes, lq_feature)

    def encode(self, x: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """(N, 3, S, S) -> encoder features by their side in pixels, latent (N, codebook_dim, L, L)."""
        size = self.config.image_size
        if x.ndim != 4 or tuple(x.shape[1:]) != (3, size, size):
            raise ValueError(f"this CodeFormer takes (N, 3, {size}, {size}), not {tuple(x.shape)}")
        features, latent = self.encoder(x.to(self.feat_emb.weight.dtype))
        return features, latent

    def predict_codes(self, lq_feature: Tensor) -> Tensor:
        """Latent (N, codebook_dim, L, L) -> logits (N, L*L, codebook_size)."""
        tokens = self.feat_emb(lq_feature.flatten(2).transpose(1, 2))
        for layer in self.ft_layers:
            tokens = layer(tokens, self.position_emb)
        logits: Tensor = self.idx_pred_layer(tokens)
        return logits

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (N, L, L) -> latent (N, codebook_dim, L, L)."""
        latent: Tensor = self.quantize(codes)
        return latent

    def decode(
        self,
        quantized: Tensor,
        features: Mapping[int, Tensor],
        fidelity: Tensor | float,
        batch_size: Callable[[int], int] | None = None,
    ) -> Tensor:
        """Decode a latent (N, codebook_dim, L, L) to images (N, 3, S, S).

        Latent and features are converted to the generator's dtype, see `set_dtypes`. Only images
        with fidelity above 0 go through the fusion, so the others are exactly the output of the generator
        alone, whatever else is in the batch. `features` may be empty if all fidelities are 0. If only some
        images are fused, `batch_size` maps their number to the batch size of the fusion; None: the same.
        """
        dtype = next(self.generator.parameters()).dtype
        quantized = quantized.to(dtype)
        count = quantized.shape[0]
        weights = torch.as_tensor(fidelity, dtype=torch.float32).expand(count)
        rows = weights.nonzero().flatten()
        fused = len(rows)
        if 0 < fused < count and batch_size is not None:
            rows = rows[filled(fused, batch_size)]
        rows = rows.to(quantized.device)
        weights = weights.to(quantized.device, dtype)[rows].view(-1, 1, 1, 1)
        x = quantized
        for index, block in enumerate(self.generator.blocks):
            x = block(x)
            size = self.generator.taps.get(index)
            if size is None or not fused:
                continue
            fusion = self.fuse_convs_dict[str(size)]
            encoded = features[size].to(dtype)
            if fused == count:
                x = fusion(encoded, x, weights)
            else:
                modulated = fusion(encoded[rows], x[rows], weights)
                x = x.index_copy(0, rows[:fused], modulated[:fused])
        return x


def filled(count: int, batch_size: Callable[[int], int]) -> list[int]:
    """Return the rows of a batch that is padded to `batch_size(count)` by repeating its last row."""
    return [*range(count), *[count - 1] * (batch_size(count) - count)]


def sizes_of(state: Mapping[str, Tensor]) -> CodeFormerConfig:
    """Return the sizes that a checkpoint's tensors imply.

    A published checkpoint that lacks some of its tensors would imply a smaller network, with a layer or a
    fusion less, and thus another output. For it the published sizes are returned, so that loading it fails.

    Raises `ValueError` for anything but a CodeFormer.
    """
    sizes, published = CodeFormerConfig.from_state_dict(state), CodeFormerConfig()
    if sizes != published:
        with torch.device("meta"):
            complete = CodeFormer(published).state_dict()
        if all(key in complete and complete[key].shape == tensor.shape for key, tensor in state.items()):
            return published
    return sizes


def match_statistics(content: Tensor, style: Tensor) -> Tensor:
    """Give each channel of `content` the mean and (unbiased) deviation of `style`; both (N, C, H, W).

    Adaptive instance normalization, Huang and Belongie 2017, arXiv:1703.06868.
    """
    content_std, content_mean = _statistics(content)
    style_std, style_mean = _statistics(style)
    return ((content.float() - content_mean) / content_std * style_std + style_mean).to(content.dtype)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=1, keepdim=True)
    return (variance + _ADAIN_EPS).sqrt(), mean
