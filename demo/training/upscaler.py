"""Trains the x4 upscaler: Real-ESRGAN's "compact" architecture, narrow (Wang et al. 2021, arXiv:2107.10833).

`python -m training.upscaler --out .runs/upscaler`

A stack of 3x3 convolutions with PReLU at the small size, whose last layer has 4 x 4 pixels for each pixel,
added to the upsampled input. Keys are those of the published files, so spandrel loads the weights. Half of
the small images are clean or lightly degraded drawings, half went through the autoencoder, as in generation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.autoencoder import gradients, psnr
from training.data import LARGES, PictureStore
from training.degrade import add_noise, blur, jpeg, resize, uniform
from training.detector import LatestAutoencoder
from training.loop import Loop, Recipe, precision
from training.options import Options, parse_options, prepare_torch

SCALE = 4
RECIPE = Recipe(learning_rate=1e-3, weight_decay=0.0, warm_up=100, flat=0.2)


class CompactUpscaler(nn.Module):
    """(N, 3, H, W) to (N, 3, 4H, 4W), RGB in 0 to 1, not clamped."""

    def __init__(self, width: int = 24, convolutions: int = 8) -> None:
        """Take the number of channels and of inner convolutions."""
        super().__init__()
        body: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(convolutions):
            body += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        body.append(nn.Conv2d(width, 3 * SCALE**2, 3, padding=1))
        self.body = nn.ModuleList(body)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        y = x
        for layer in self.body:
            y = layer(y)
        return F.pixel_shuffle(y, SCALE) + F.interpolate(x, scale_factor=SCALE, mode="nearest")


def degrade_lightly(small: Tensor) -> Tensor:
    """What a file format or a decoder does to a small image."""
    if torch.rand(()) < 0.4:
        small = blur(small, uniform(0.3, 0.9))
    if torch.rand(()) < 0.3:
        small = add_noise(small, 0.025)
    if torch.rand(()) < 0.25:
        small = jpeg(small, 60, 95)
    return small


def train(options: Options) -> None:
    """Run the stage."""
    prepare_torch(options)
    store = PictureStore(options, LARGES, least=options.scaled(200, 3), most=options.scaled(1500, 3))
    smear = LatestAutoencoder(options).smear()
    network = CompactUpscaler().to(options.device).to(memory_format=torch.channels_last)
    loop = Loop(options, RECIPE, {"upscaler": network})
    count, patch = options.batch, options.profile.upscaler_patch
    for _ in loop.steps():
        with torch.no_grad():
            large = store.sample(count)[0].permute(0, 3, 1, 2).float() / 255
            # The upscaler is applied once or twice: to generated images and to its own output.
            small_side = options.profile.native if torch.rand(()) < 0.6 else large.shape[-1] // SCALE
            large = resize(large, SCALE * small_side, SCALE * small_side)
            small = resize(large, small_side, small_side)
            is_native = small_side == options.profile.native and torch.rand(()) < 0.5
            small = smear(small) if smear and is_native else degrade_lightly(small)
            pairs = []
            for _ in range(4):
                top, left = torch.randint(small_side - patch + 1, (2,)).tolist()
                target = large[
                    :, :, SCALE * top : SCALE * (top + patch), SCALE * left : SCALE * (left + patch)
                ]
                pairs.append((small[:, :, top : top + patch, left : left + patch], target))
            inputs, target = (torch.cat(side) for side in zip(*pairs, strict=True))
        with precision(options.device):
            output = network(inputs.contiguous(memory_format=torch.channels_last))
        output = output.float()
        edges = sum((a - b).abs().mean() for a, b in zip(gradients(output), gradients(target), strict=True))
        loop.update(
            (output - target).abs().mean() + 0.5 * edges, psnr=psnr(4 * (output - target).square().mean())
        )
    loop.finish()
    ours, cubic = measure(network, (store.unseen(options.scaled(40, 1)) + 1) / 2, options.profile.native)
    loop.export(psnr_unseen=round(ours, 2), psnr_bicubic=round(cubic, 2))
    print(f"upscaler: {ours:.2f} dB on unseen drawings, bicubic {cubic:.2f} dB", flush=True)


@torch.no_grad()
def measure(network: CompactUpscaler, large: Tensor, side: int) -> tuple[float, float]:
    """PSNR in dB of the network and of bicubic on clean drawings (N, 3, H, H), upscaled from `side` px."""
    errors = []
    for image in large.split(1):
        target = resize(image, SCALE * side, SCALE * side)
        small = resize(target, side, side)
        cubic = F.interpolate(small, target.shape[-2:], mode="bicubic", align_corners=False)
        errors.append(
            [(upscaled.clamp(0, 1) - target).square().mean() * 4 for upscaled in (network(small), cubic)]
        )
    ours, cubics = zip(*errors, strict=True)
    return float(psnr(torch.stack(ours)).mean()), float(psnr(torch.stack(cubics)).mean())


if __name__ == "__main__":
    train(parse_options("Trains the x4 upscaler of the demo set."))
