"""Degrades images on the device, as bad cameras, bad files and small generators do.

All functions take and return float images (N, 3, H, W), RGB in 0 to 1, and sample their strength from torch's
generator. Blur and scale are sampled per batch, noise and JPEG quality per image.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Smear = Callable[[Tensor], Tensor]

# Quantization tables of the JPEG standard (ITU-T T.81, annex K.1), luminance and chrominance.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = (
    """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99"""
)


def uniform(low: float, high: float) -> float:
    """A uniform random number from torch's generator."""
    return low + (high - low) * float(torch.rand(()))


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; sigma in pixels."""
    if sigma < 0.2:
        return x
    reach = min(math.ceil(3 * sigma), min(x.shape[-2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    x = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    x = F.conv2d(x, kernel[:, :, None, :], groups=3)
    return F.conv2d(x, kernel[:, :, :, None], groups=3)


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Area averaging to downsample, bicubic to upsample."""
    if (height, width) == tuple(x.shape[-2:]):
        return x
    if height <= x.shape[-2] and width <= x.shape[-1]:
        return F.interpolate(x, (height, width), mode="area")
    return F.interpolate(x, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def add_noise(x: Tensor, strongest: float) -> Tensor:
    """White noise with a standard deviation up to `strongest`, sampled per image."""
    strength = torch.rand(len(x), 1, 1, 1, device=x.device) * strongest
    return (x + strength * torch.randn_like(x)).clamp(0, 1)


def _cosines(device: torch.device) -> Tensor:
    k, n = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    basis = torch.cos((2 * n + 1) * k * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis.to(device)


def jpeg(x: Tensor, low: float, high: float) -> Tensor:
    """Quantize 8x8 DCT blocks at a JPEG quality (1 to 100) sampled per image from [low, high].

    Chroma is not subsampled, as in JPEGs of good quality.
    """
    count, _, height, width = x.shape
    padded = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate") * 255
    red, green, blue = padded.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = torch.stack((luma - 128, (blue - luma) * 0.564, (red - luma) * 0.713), 1)
    blocks = planes.unfold(2, 8, 8).unfold(3, 8, 8)
    basis = _cosines(x.device)
    waves = torch.einsum("ki,ncyxij,lj->ncyxkl", basis, blocks, basis)
    tables = torch.stack(
        [
            torch.tensor([float(v) for v in text.split()])
            for text in (_LUMA, _CHROMA + " 99" * 32, _CHROMA + " 99" * 32)
        ]
    )
    quality = low + (high - low) * torch.rand(count)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    steps = (tables.view(1, 3, 1, 1, 8, 8) * scale.view(-1, 1, 1, 1, 1, 1)).clamp(min=1).to(x.device)
    waves = torch.round(waves / steps) * steps
    blocks = torch.einsum("ki,ncyxkl,lj->ncyxij", basis, waves, basis)
    planes = blocks.permute(0, 1, 2, 4, 3, 5).reshape(count, 3, padded.shape[2], padded.shape[3])
    luma, blue_difference, red_difference = planes.unbind(1)
    luma = luma + 128
    red, blue = luma + red_difference / 0.713, luma + blue_difference / 0.564
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return (torch.stack((red, green, blue), 1)[:, :, :height, :width] / 255).clamp(0, 1)


def degrade_photo(x: Tensor) -> Tensor:
    """Blur, downsampling (x2 to x10), noise and JPEG, then resizing to the original size."""
    height, width = x.shape[-2:]
    factor = uniform(2, 10)
    x = blur(x, uniform(0, 4))
    x = resize(x, round(height / factor), round(width / factor))
    x = jpeg(add_noise(x, 0.06), 40, 95)
    return resize(x, height, width)


def degrade_generated(x: Tensor, smear: Smear) -> Tensor:
    """What a small latent generator makes of a face: downsampled, through `smear`, and resized back."""
    height, width = x.shape[-2:]
    side = uniform(0.22, 0.42)
    small = resize(x, max(16, round(height * side / 8) * 8), max(16, round(width * side / 8) * 8))
    small = blur(smear(small), uniform(0, 0.8))
    return resize(small, height, width)


def degrade_face(x: Tensor, smear: Smear | None) -> Tensor:
    """What a face restorer gets: half of the batches like photos, half like generated images."""
    if smear is None or torch.rand(()) < 0.5:
        return degrade_photo(x)
    return degrade_generated(x, smear)


def jitter_colors(x: Tensor) -> Tensor:
    """Color jitter: contrast, brightness, gamma and color cast, sampled per image."""

    def per_image(channels: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(x), channels, 1, 1, device=x.device)

    x = (x - 0.5) * per_image(1, 0.6, 1.2) + 0.5 + per_image(1, -0.15, 0.15)
    x = x.clamp(1e-4, 1) ** per_image(1, 0.7, 1.4)
    return (x * per_image(3, 0.8, 1.15)).clamp(0, 1)
