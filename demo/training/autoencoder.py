"""Trains the autoencoder between images and latents of a quarter (`cpu`) or an eighth of their side.

`python -m training.autoencoder --out .runs/autoencoder`

The class is diffusers' `AutoencoderKL`. Errors on faces are weighted more, most of all at eyes and mouth,
which are a handful of latent pixels each. After the last step the statistics of the latents are folded into
the two 1x1 convolutions around them, so that latents have mean 0 and standard deviation 1 in each channel and
a `scaling_factor` of 1 is correct.

In every third batch the decoder gets the latents at half their size and must decode the image at half its
size (EQ-VAE, Kouzelis et al. 2025, arXiv:2502.09509): latents become smooth, which diffusion learns faster.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import PictureStore
from training.loop import EXPORT, Loop, Recipe, compiled, load_export, precision
from training.options import Options, parse_options, prepare_torch
from training.profile import Profile

RECIPE = Recipe(learning_rate=5e-4, warm_up=200, flat=0.3)


Autoencoder = Any
"""diffusers' `AutoencoderKL`, which hides its attributes from the type checker."""


def factor(profile: Profile) -> int:
    """The downsampling factor: pixels of the image's side per latent pixel."""
    pixels: int = 2 ** (len(profile.autoencoder_widths) - 1)
    return pixels


def build_autoencoder(profile: Profile) -> Autoencoder:
    """The untrained network: residual blocks start as the identity, latents with little noise."""
    network: Autoencoder = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=profile.latent_channels,
        block_out_channels=profile.autoencoder_widths,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(profile.autoencoder_widths),
        up_block_types=("UpDecoderBlock2D",) * len(profile.autoencoder_widths),
        norm_num_groups=profile.autoencoder_widths[0] // 8,  # fewer than 8 channels per group train badly
        mid_block_add_attention=False,
        sample_size=profile.native,
        scaling_factor=1.0,
        force_upcast=False,
    )
    with torch.no_grad():
        for name, module in network.named_modules():
            if name.endswith("conv2"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        network.quant_conv.weight[profile.latent_channels :] *= 0.1
        network.quant_conv.bias[profile.latent_channels :] = -6.0
    return network


def load_autoencoder(folder: Path, profile: Profile, device: torch.device) -> Autoencoder:
    """The trained network from the stage's folder, frozen."""
    network = load_export(folder / EXPORT, "autoencoder", build_autoencoder(profile))
    return network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighboring pixels: (N, C, H, W-1) and (N, C, H-1, W)."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(decoded: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted reconstruction loss of images in [-1, 1], and the plain mean squared error for the log.

    Absolute and squared error, squared error of 8x8 means (flat colors must be right), and the absolute
    error of gradients (edges must be sharp). Weights are (N, 1, H, W).
    """
    weights = weights / weights.mean()
    error = decoded - target
    absolute = (error.abs() * weights).mean()
    squared = (error.square() * weights).mean()
    coarse = F.avg_pool2d(error, 8).square().mean()
    across, down = gradients(error)
    edges = (across.abs() * weights[..., 1:]).mean() + (down.abs() * weights[..., 1:, :]).mean()
    return absolute + 2 * squared + 2 * coarse + 0.6 * edges, error.square().mean()


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a mean squared error on the range [-1, 1]."""
    return 10 * torch.log10(4 / error.clamp(min=1e-9))


@torch.no_grad()
def fold_statistics(network: Autoencoder, images: Tensor) -> None:
    """Fold the latents' mean and deviation over `images` (N, 3, H, W) into the 1x1 convolutions."""
    latents = torch.cat([network.encode(part).latent_dist.mean.float() for part in images.split(32)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out, channels = network.quant_conv, network.post_quant_conv, len(mean)
    into.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2 * deviation.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation.view(1, -1, 1, 1)
    print(f"latents: mean {mean.tolist()} deviation {deviation.tolist()}, folded", flush=True)


@torch.no_grad()
def measure(network: Autoencoder, images: Tensor) -> float:
    """Mean PSNR in dB of the reconstructions of (N, 3, H, W) in [-1, 1]."""
    errors = []
    for part in images.split(32):
        decoded = network.decode(network.encode(part).latent_dist.mean).sample.clamp(-1, 1)
        errors.append((decoded.float() - part).square().mean((1, 2, 3)))
    return float(psnr(torch.cat(errors)).mean())


def train(options: Options) -> None:
    """Run the stage."""
    prepare_torch(options)
    store = PictureStore(options, least=options.scaled(3000, 8), most=options.scaled(40_000, 16))
    network = build_autoencoder(options.profile).to(options.device).to(memory_format=torch.channels_last)
    loop = Loop(options, RECIPE, {"autoencoder": network})
    batch = options.batch
    encoder, decoder = compiled(network.encoder, options), compiled(network.decoder, options)
    for progress in loop.steps():
        if loop.step % 400 == 0:
            store.refresh()
        target, weights = store.batch(batch, loop.step)
        with precision(options.device):
            posterior = DiagonalGaussianDistribution(network.quant_conv(encoder(target)).float())
            latents = posterior.sample()
            if progress > 0.4:  # the decoder learns to tolerate a diffusion network's small errors
                spread = latents.detach().float().std((0, 2, 3), keepdim=True) * 0.06
                amount = torch.rand(len(latents), 1, 1, 1, device=latents.device)
                latents = latents + spread * amount * torch.randn_like(latents)
            if loop.step % 3 == 2:
                latents, target, weights = (F.avg_pool2d(x, 2) for x in (latents, target, weights))
            decoded = decoder(network.post_quant_conv(latents))
        loss, error = reconstruction_loss(decoded.float(), target, weights)
        loop.update(loss + 1e-6 * posterior.kl().mean(), psnr=psnr(error))
    loop.finish()
    unseen = store.unseen(options.scaled(256, 2))
    fold_statistics(network, store.batch(options.scaled(512, 2), 0)[0])
    quality = measure(network, unseen)
    loop.export(psnr_unseen=round(quality, 2))
    print(f"autoencoder: {quality:.2f} dB on {len(unseen)} unseen images", flush=True)


if __name__ == "__main__":
    train(parse_options("Trains the autoencoder of the demo set."))
