"""Trains the refiner: it draws into an enlarged picture the detail that the base was too small for.

`python -m training.refiner --out .runs/refiner`

As in SDXL (Podell et al. 2023, arXiv:2307.01952, section 2.5), a second UNet for the last noise levels, in
the same latents, that is told the second text encoder's words, two sizes and a score. What it starts from in
the chain is no noisy drawing, but a noisy enlargement of what the base drew; so the enlargement's difference
from the drawing is part of the noise that it learns to take away. Euler's steps shrink both alike
(compare ResShift, Yue et al. 2023, arXiv:2307.12348).
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
from training.redrawn import Pictures, Redrawer, levels

RECIPE = Recipe(learning_rate=1e-3, weight_decay=1e-3, warm_up=200, flat=0.3)
GOOD, POOR = 6.0, 2.5
"""diffusers' aesthetic scores for the prompt and for the negative prompt."""
FIRST_STEPS = (160, 400)
"""Where in the 1000 noise levels the chain may begin: 166 to 299 for the refiner, 319 for hires fix."""
STRENGTHS = (0.15, 0.5)
"""How far half of the small pictures are redrawn by the base; the others pass through the autoencoder."""
SMEAR = 0.2
PORTRAIT_SHARE = 0.6
SMALL_SHARE = 0.25  # of the pictures are refined at half the usual side
UNSEEN = 64
BATCH = 8


def build_refiner(profile: Profile) -> Unet:
    """The untrained network; only its smallest level looks at words, and at the whole picture."""
    levels = len(profile.refiner_widths)
    return UNet2DConditionModel(
        sample_size=profile.refined // factor(profile),
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
    """Latents (N, C, S, S) of parts of drawings, the same of enlargements, and sides of the whole, in px."""

    clean: Tensor
    enlarged: Tensor
    sides: Tensor
    captions: list[str]


def parts(drawn: drawing.Drawing, enlarged: Pictures, part: int, rng: np.random.Generator) -> list[Pictures]:
    """Squares out of drawing and enlargement, (2, part, part, 3): anywhere, and around a face."""
    room = drawn.image.shape[0] - part
    corners = [rng.integers(0, room + 1, 2)]
    if drawn.faces and room:
        left, top, right, bottom = drawn.faces[int(rng.integers(len(drawn.faces)))].box
        middle = np.array([(left + right) / 2, (top + bottom) / 2]) + rng.normal(0, 0.15 * part, 2)
        corners.append(np.clip(middle - part / 2, 0, room).astype(int))
    both = np.stack([drawn.image, enlarged])
    return [both[:, y : y + part, x : x + part] for x, y in corners]


@torch.no_grad()
def draw_examples(options: Options, count: int) -> Examples:
    """Draws `count` pictures large, makes small ones of them as the base would, and enlarges those again."""
    rng, profile, device = np.random.default_rng([options.seed, 83]), options.profile, options.device
    redrawer = Redrawer(options)
    smear = autoencoder_smear(redrawer.autoencoder, SMEAR)
    part, native = profile.refined // 2, profile.native
    latents: list[Tensor] = []
    sides: list[int] = []
    captions: list[str] = []
    while len(captions) < count:
        side = profile.refined if rng.random() > SMALL_SHARE else part
        kinds = ["portrait" if rng.random() < PORTRAIT_SHARE else None for _ in range(BATCH)]
        drawn = [drawing.draw(rng, side, kind) for kind in kinds]
        shrunk = [cv2.resize(d.image, (native, native), interpolation=cv2.INTER_AREA) for d in drawn]
        small = np.asarray(np.stack(shrunk), np.uint8)
        if rng.random() < 0.5:
            small = redrawer.redraw(small, [d.caption for d in drawn], float(rng.uniform(*STRENGTHS)))
        else:
            small = levels(smear(torch.from_numpy(small).to(device).permute(0, 3, 1, 2).float() / 255))
        for one, picture in zip(drawn, small, strict=True):
            for pair in parts(one, redrawer.enlarge(picture, side), part, rng):
                x = torch.from_numpy(pair).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
                with precision(device):
                    x = x.contiguous(memory_format=torch.channels_last)
                    latents.append(redrawer.autoencoder.encode(x).latent_dist.mean.half())
                sides.append(side)
                captions.append(one.caption)
        if len(captions) // 100 > (len(captions) - BATCH) // 100:
            print(f"{options.stage} drew {len(captions)} parts", flush=True)
    clean, enlarged = torch.stack(latents).unbind(1)
    return Examples(clean, enlarged, torch.tensor(sides, device=device), captions)


def load_examples(options: Options) -> Examples:
    """What `draw_examples` gives, kept in the stage's folder from one call to the next."""
    kept = options.out / "examples.pt"
    if kept.exists():
        return Examples(**torch.load(kept, map_location=options.device, weights_only=True))
    examples = draw_examples(options, options.scaled(options.profile.refiner_parts, 16))
    replace(kept, lambda path: torch.save(vars(examples), path))
    return examples


def mix(clean: Tensor, enlarged: Tensor, noise: Tensor, now: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """What the network is given on the way, and the v that it should tell, both (N, C, S, S).

    `now` and `first` (N,): the noise's deviation, of the latents', here and where the chain began. Noise and
    difference shrink together, so that the difference is a constant part of the noise.
    """
    now, first = now.view(-1, 1, 1, 1), first.view(-1, 1, 1, 1)
    signal = (1 + now.square()).rsqrt()
    noise = noise + (enlarged - clean) / first
    return signal * (clean + now * noise), signal * (noise - now * clean)


@dataclass(frozen=True)
class Words:
    """What the network is told: token ids (N, 77), which of them as zeros (N,), and SDXL's numbers (N, 5)."""

    ids: Tensor
    silenced: Tensor
    numbers: Tensor


def draw_words(tokens: CaptionTokens, rows: Tensor, sides: Tensor) -> Words:
    """Captions and sides (N,) of these rows, as the chain tells them.

    Texts that mean nothing, and a few captions, have the score of negative prompts; the whole picture is not
    always said to be square.
    """
    ids, silenced = tokens.draw(rows)
    poor = (
        silenced | (ids != tokens.captions[rows]).any(1) | (torch.rand(len(rows), device=ids.device) < 0.05)
    )
    size = sides[:, None].expand(-1, 2).clone().float()
    shorter, shorten = (torch.rand(len(rows), device=ids.device) for _ in range(2))
    which = torch.randint(2, (len(rows),), device=ids.device)
    row = torch.arange(len(rows), device=ids.device)
    size[row, which] *= torch.where(shorten < 0.4, (8 + 8 * shorter).floor() / 16, torch.ones_like(shorter))
    scores = torch.where(poor, POOR, GOOD)[:, None]
    return Words(ids, silenced, torch.cat((size, torch.zeros_like(size), scores), 1))


class Objective:
    """The v-prediction error of noisy enlargements, as of drawings with a noise that leads there."""

    def __init__(self, unet: Unet, options: Options, vocabulary: int) -> None:
        """Compiles the network and loads the second text encoder, as the base has it by now."""
        self.unet: Unet = compiled(unet, options, on_cpu=True)
        base = load_trained(options.runs / "diffusion", vocabulary, options.profile).to(options.device)
        self.encoder = base.text_encoder_2.eval().requires_grad_(False)
        self.device = options.device
        noise: Any = DDPMScheduler(**SCHEDULE)
        self.sigmas = (1 / noise.alphas_cumprod - 1).sqrt().to(options.device)

    def __call__(
        self, clean: Tensor, enlarged: Tensor, noise: Tensor, words: Words, times: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Squared error per part (N,); `times`: noise levels now and where the chain began, 0 to 999."""
        now, first = times
        noisy, wanted = mix(clean, enlarged, noise, self.sigmas[now], self.sigmas[first])
        with precision(self.device):
            with torch.no_grad():
                told = self.encoder(words.ids, output_hidden_states=True)
                keep = (~words.silenced).to(told.text_embeds.dtype)
                hidden = told.hidden_states[-2] * keep[:, None, None]
                pooled = told.text_embeds * keep[:, None]
            extra = {"text_embeds": pooled, "time_ids": words.numbers}
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted = self.unet(
                noisy, now, encoder_hidden_states=hidden, added_cond_kwargs=extra, return_dict=False
            )[0]
        error: Tensor = (predicted.float() - wanted).square().mean((1, 2, 3))
        return error


def draw_times(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise levels (N,) from 0 to where the chain began, and those beginnings (N,)."""
    low, high = FIRST_STEPS
    first = torch.randint(low, high + 1, (count,), device=device)
    return (first * torch.rand(count, device=device)).long(), first


def train(options: Options) -> None:
    """Runs the stage."""
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
          f"{len(examples.clean)} parts", flush=True)  # fmt: skip

    def errors(rows: Tensor) -> Tensor:
        clean, enlarged = examples.clean[rows].float(), examples.enlarged[rows].float()
        words = draw_words(tokens, rows, examples.sides[rows])
        return objective(
            clean, enlarged, torch.randn_like(clean), words, draw_times(len(rows), options.device)
        )

    for _ in loop.steps():
        # A drawing may have a part on either side of the line: the first part after it is left out.
        rows = torch.randint(unseen + 1, len(examples.clean), (options.batch,), device=options.device)
        loop.move(errors(rows).mean())
    loop.finish()
    objective.unet = unet
    torch.manual_seed(9)
    with torch.no_grad():
        held = torch.arange(unseen, device=options.device).split(options.batch)
        found = [errors(rows) for rows in held]
    error = float(torch.cat(found).mean())
    loop.export(v_error_unseen=round(error, 4))
    print(f"refiner: error {error:.4f} on unseen parts after {loop.step} steps", flush=True)


if __name__ == "__main__":
    train(parse_options("Trains the refiner of the demo set."))
