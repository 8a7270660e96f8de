"""Trains the refiner: it adds the detail to an upscaled image that the base was too small for.

`python -m training.refiner --out .runs/refiner`

As in SDXL (Podell et al. 2023, arXiv:2307.01952, section 2.5), a second UNet for the last noise levels, in
the same latent space, conditioned on the second text encoder's embeddings, two sizes and a score. In the
chain it does not start from a noisy drawing, but from a noisy upscaled output of the base; so the difference
between the two is part of the noise that it learns to remove. Euler steps shrink both alike (compare
ResShift, Yue et al. 2023, arXiv:2307.12348).
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

import drawing
from training.autoencoder import factor
from training.detector import autoencoder_smear
from training.diffusion import SCHEDULE, TEXT_WIDTH, TIME_WIDTH, TOKENIZER, CaptionTokens, Unet, load_trained
from training.loop import Loop, Recipe, compiled, precision, replace
from training.options import Options, parse_options, prepare_torch
from training.profile import Profile
from training.redrawn import Images, Redrawer, levels

RECIPE = Recipe(learning_rate=1e-3, weight_decay=1e-3, warm_up=200, flat=0.3)
POSITIVE_SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""diffusers' aesthetic scores for the prompt and the negative prompt."""
FIRST_TIMESTEPS = (160, 400)
"""Timesteps, of 1000, at which the chain may start: 166 to 299 for the refiner, 319 for hires fix."""
STRENGTHS = (0.15, 0.5)
"""Strength with which the base redraws half of the small images; the others go through the autoencoder."""
SMEAR = 0.2
PORTRAIT_SHARE = 0.6
SMALL_SHARE = 0.25  # of the images are refined at half the usual side
UNSEEN = 64
BATCH = 8


def build_refiner(profile: Profile) -> Unet:
    """The untrained network; only its lowest resolution has cross-attention and self-attention."""
    levels = len(profile.refiner_widths)
    return UNet2DConditionModel(
        sample_size=profile.refiner_side // factor(profile),
        in_channels=profile.latent_channels,
        out_channels=profile.latent_channels,
        block_out_channels=profile.refiner_widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * (levels - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        transformer_layers_per_block=(1,) * levels,
        attention_head_dim=tuple(width // 16 for width in profile.refiner_widths),
        cross_attention_dim=TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=5 * TIME_WIDTH + TEXT_WIDTH,
        use_linear_projection=True,
        norm_num_groups=8,
    )


@dataclass(frozen=True)
class Examples:
    """Latents (N, C, S, S) of crops of drawings and of upscaled images; sides in px of the full images."""

    clean: Tensor
    enlarged: Tensor
    sides: Tensor
    captions: list[str]


def crop_pairs(drawn: drawing.Drawing, enlarged: Images, crop: int, rng: np.random.Generator) -> list[Images]:
    """Crops of drawing and upscaled image, (2, crop, crop, 3): one anywhere, one around a face."""
    slack = drawn.image.shape[0] - crop
    corners = [rng.integers(0, slack + 1, 2)]
    if drawn.faces and slack:
        left, top, right, bottom = drawn.faces[int(rng.integers(len(drawn.faces)))].box
        middle = np.array([(left + right) / 2, (top + bottom) / 2]) + rng.normal(0, 0.15 * crop, 2)
        corners.append(np.clip(middle - crop / 2, 0, slack).astype(int))
    both = np.stack([drawn.image, enlarged])
    return [both[:, y : y + crop, x : x + crop] for x, y in corners]


@torch.no_grad()
def make_examples(options: Options, count: int) -> Examples:
    """Draw large images, make small ones as the base would, upscale those, and crop both, `count` times."""
    rng, profile, device = np.random.default_rng([options.seed, 83]), options.profile, options.device
    redrawer = Redrawer(options)
    smear = autoencoder_smear(redrawer.autoencoder, SMEAR)
    crop, native = profile.refiner_side // 2, profile.native
    latents: list[Tensor] = []
    sides: list[int] = []
    captions: list[str] = []
    while len(captions) < count:
        side = profile.refiner_side if rng.random() > SMALL_SHARE else crop
        kinds = ["portrait" if rng.random() < PORTRAIT_SHARE else None for _ in range(BATCH)]
        drawn = [drawing.draw(rng, side, kind) for kind in kinds]
        downsampled = [cv2.resize(d.image, (native, native), interpolation=cv2.INTER_AREA) for d in drawn]
        small = np.asarray(np.stack(downsampled), np.uint8)
        if rng.random() < 0.5:
            small = redrawer.redraw(small, [d.caption for d in drawn], float(rng.uniform(*STRENGTHS)))
        else:
            small = levels(smear(torch.from_numpy(small).to(device).permute(0, 3, 1, 2).float() / 255))
        for original, image in zip(drawn, small, strict=True):
            for pair in crop_pairs(original, redrawer.upscale(image, side), crop, rng):
                x = torch.from_numpy(pair).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
                with precision(device):
                    x = x.contiguous(memory_format=torch.channels_last)
                    latents.append(redrawer.autoencoder.encode(x).latent_dist.mean.half())
                sides.append(side)
                captions.append(original.caption)
        if len(captions) // 100 > (len(captions) - BATCH) // 100:
            print(f"{options.stage} made {len(captions)} crops", flush=True)
    clean, enlarged = torch.stack(latents).unbind(1)
    return Examples(clean, enlarged, torch.tensor(sides, device=device), captions)


def load_examples(options: Options) -> Examples:
    """What `make_examples` returns, cached in the stage's folder."""
    cache = options.out / "examples.pt"
    if cache.exists():
        return Examples(**torch.load(cache, map_location=options.device, weights_only=True))
    examples = make_examples(options, options.scaled(options.profile.refiner_crops, 16))
    replace(cache, lambda path: torch.save(vars(examples), path))
    return examples


def mix(clean: Tensor, enlarged: Tensor, noise: Tensor, now: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """The network's input at some timestep and its target v, both (N, C, S, S).

    `now` and `first` (N,): sigma at this timestep and where the chain started. Noise and difference shrink
    together, so the difference is a constant part of the noise.
    """
    now, first = now.view(-1, 1, 1, 1), first.view(-1, 1, 1, 1)
    signal = (1 + now.square()).rsqrt()
    noise = noise + (enlarged - clean) / first
    return signal * (clean + now * noise), signal * (noise - now * clean)


@dataclass(frozen=True)
class Conditioning:
    """Conditioning: token ids (N, 77), which embeddings to zero (N,), and SDXL's five numbers (N, 5)."""

    ids: Tensor
    dropped: Tensor
    numbers: Tensor


def sample_conditioning(tokens: CaptionTokens, rows: Tensor, sides: Tensor) -> Conditioning:
    """Captions and sizes for these rows, as the chain passes them.

    Null texts and a few captions get the score of negative prompts; the size is not always square.
    """
    ids, dropped = tokens.sample(rows)
    is_negative = (
        dropped | (ids != tokens.captions[rows]).any(1) | (torch.rand(len(rows), device=ids.device) < 0.05)
    )
    size = sides[:, None].expand(-1, 2).clone().float()
    shorter, shorten = (torch.rand(len(rows), device=ids.device) for _ in range(2))
    which = torch.randint(2, (len(rows),), device=ids.device)
    row = torch.arange(len(rows), device=ids.device)
    size[row, which] *= torch.where(shorten < 0.4, (8 + 8 * shorter).floor() / 16, torch.ones_like(shorter))
    scores = torch.where(is_negative, NEGATIVE_SCORE, POSITIVE_SCORE)[:, None]
    return Conditioning(ids, dropped, torch.cat((size, torch.zeros_like(size), scores), 1))


class Objective:
    """The v-prediction error on noisy upscaled images."""

    def __init__(self, unet: Unet, options: Options, vocabulary: int) -> None:
        """Compile the network and load the base's second text encoder."""
        self.unet: Unet = compiled(unet, options, on_cpu=True)
        base = load_trained(options.runs / "diffusion", vocabulary, options.profile).to(options.device)
        self.encoder = base.text_encoder_2.eval().requires_grad_(False)
        self.device = options.device
        noise: Any = DDPMScheduler(**SCHEDULE)
        self.sigmas = (1 / noise.alphas_cumprod - 1).sqrt().to(options.device)

    def __call__(
        self,
        clean: Tensor,
        enlarged: Tensor,
        noise: Tensor,
        conditioning: Conditioning,
        times: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Squared error per crop (N,); `times`: the timesteps here and where the chain started, 0 to 999."""
        now, first = times
        noisy, target = mix(clean, enlarged, noise, self.sigmas[now], self.sigmas[first])
        with precision(self.device):
            with torch.no_grad():
                encoded = self.encoder(conditioning.ids, output_hidden_states=True)
                keep = (~conditioning.dropped).to(encoded.text_embeds.dtype)
                hidden = encoded.hidden_states[-2] * keep[:, None, None]
                pooled = encoded.text_embeds * keep[:, None]
            extra = {"text_embeds": pooled, "time_ids": conditioning.numbers}
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted = self.unet(
                noisy, now, encoder_hidden_states=hidden, added_cond_kwargs=extra, return_dict=False
            )[0]
        error: Tensor = (predicted.float() - target).square().mean((1, 2, 3))
        return error


def sample_times(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Timesteps (N,) from 0 to where the chain started, and those starts (N,)."""
    low, high = FIRST_TIMESTEPS
    first = torch.randint(low, high + 1, (count,), device=device)
    return (first * torch.rand(count, device=device)).long(), first


def train(options: Options) -> None:
    """Run the stage."""
    prepare_torch(options)
    examples = load_examples(options)
    unet = build_refiner(options.profile).to(options.device).to(memory_format=torch.channels_last)
    loop = Loop(options, RECIPE, {"unet": unet})
    tokens = CaptionTokens(
        examples.captions, options.runs / "diffusion" / TOKENIZER, options.device, options.seed
    )
    objective = Objective(unet, options, len(tokens.tokenizer))
    unseen = options.scaled(UNSEEN, 2)
    print(f"refiner: {sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M parameters, "
          f"{len(examples.clean)} crops", flush=True)  # fmt: skip

    def errors(rows: Tensor) -> Tensor:
        clean, enlarged = examples.clean[rows].float(), examples.enlarged[rows].float()
        conditioning = sample_conditioning(tokens, rows, examples.sides[rows])
        return objective(
            clean, enlarged, torch.randn_like(clean), conditioning, sample_times(len(rows), options.device)
        )

    for _ in loop.steps():
        # The crops of one drawing may straddle the split: the first crop after it is left out.
        rows = torch.randint(unseen + 1, len(examples.clean), (options.batch,), device=options.device)
        loop.update(errors(rows).mean())
    loop.finish()
    objective.unet = unet
    torch.manual_seed(9)
    with torch.no_grad():
        batches = torch.arange(unseen, device=options.device).split(options.batch)
        held_out_errors = [errors(rows) for rows in batches]
    error = float(torch.cat(held_out_errors).mean())
    loop.export(v_error_unseen=round(error, 4))
    print(f"refiner: error {error:.4f} on unseen crops after {loop.step} steps", flush=True)


if __name__ == "__main__":
    train(parse_options("Trains the refiner of the demo set."))
