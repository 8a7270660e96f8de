"""Redraws drawings with the trained generator: examples of what it makes of faces, with the truth about them.

`python -m training.redrawn --out .runs/redrawn`

Each drawing is noised part of the way and cleaned again by the UNet, told its caption (SDEdit, Meng et al.
2021, arXiv:2108.01073). Where the faces are stays as it was drawn; how they look is the generator's. The
detector learns from the pictures (`redrawn_NNNN` beside the other shards) to find such faces, and the last
stage of CodeFormer from pairs of aligned faces (`pairs_NNNN`: redrawn and clean) to make them clean.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTokenizer

import drawing
from training.autoencoder import load_autoencoder
from training.data import FACE, PAIRS, REDRAWN, align, annotation, save, shard_path, shards
from training.diffusion import GUIDANCE_RESCALE, TOKENIZER, build_scheduler, load_trained
from training.loop import EXPORT, load_export, precision, replace
from training.options import Options, parse_options, prepare_torch
from training.tokenizer import LENGTH
from training.upscaler import SCALE, CompactUpscaler

STEPS = 12
STRENGTHS = (0.35, 0.8)
"""Share of the way to pure noise from which a picture is cleaned again, drawn per batch."""
GUIDANCE = 7.5
BATCH = 8
PORTRAIT_SHARE = 0.75
SMALLEST_FACE = 0.25  # of the picture's height: smaller ones make no pair

Pictures = NDArray[np.uint8]


class Redrawer:
    """The trained base of the set, with the set's upscaler."""

    def __init__(self, options: Options) -> None:
        """Loads the stages' exports."""
        runs, profile, self.device = options.runs, options.profile, options.device
        self.tokenizer = CLIPTokenizer.from_pretrained(runs / "diffusion" / TOKENIZER)
        self.model = load_trained(runs / "diffusion", len(self.tokenizer), profile).to(self.device).eval()
        stage = "decoder" if (runs / "decoder" / EXPORT).exists() else "autoencoder"
        self.autoencoder = load_autoencoder(runs / stage, profile, self.device)
        self.upscaler: CompactUpscaler | None = None
        if (runs / "upscaler" / EXPORT).exists():
            self.upscaler = CompactUpscaler().to(self.device).eval()
            load_export(runs / "upscaler" / EXPORT, "upscaler", self.upscaler)

    @torch.no_grad()
    def redraw(self, pictures: Pictures, captions: list[str], strength: float) -> Pictures:
        """Pictures (N, S, S, 3) noised to `strength`, 0 to 1, and cleaned again."""
        scheduler: Any = build_scheduler()
        scheduler.set_timesteps(STEPS)
        first = min(STEPS - 1, round((1 - strength) * STEPS))
        times = scheduler.timesteps[first:]
        x = torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with precision(self.device):
            latents = self.autoencoder.encode(x).latent_dist.mean.float()
            ids = self._ids([*[""] * len(captions), *captions])
            silenced = torch.arange(len(ids), device=self.device) < len(captions)
            hidden, pooled = self.model.encode_text(ids, silenced)
            numbers = self.model.size_numbers(torch.cat((latents, latents)))
            extra = {"text_embeds": pooled, "time_ids": numbers}
            latents = scheduler.add_noise(latents, torch.randn_like(latents), times[:1])
            for time in times:
                both = scheduler.scale_model_input(torch.cat((latents, latents)), time)
                told = self.model.unet(both, time, encoder_hidden_states=hidden, added_cond_kwargs=extra)
                without, text = told.sample.float().chunk(2)
                guided = rescale_noise_cfg(without + GUIDANCE * (text - without), text, GUIDANCE_RESCALE)
                latents = scheduler.step(guided, time, latents).prev_sample
            drawn = self.autoencoder.decode(latents).sample.float()
        return levels(drawn / 2 + 0.5)

    @torch.no_grad()
    def enlarge(self, picture: Pictures, side: int) -> Pictures:
        """One picture (S, S, 3) at (side, side, 3), by the upscaler if there is one yet."""
        if self.upscaler is not None:
            x = torch.from_numpy(picture).to(self.device).permute(2, 0, 1)[None].float() / 255
            picture = levels(self.upscaler(x))[0]
        way = cv2.INTER_AREA if picture.shape[0] > side else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(picture, (side, side), interpolation=way), np.uint8)

    def _ids(self, texts: list[str]) -> Tensor:
        found = self.tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True).input_ids
        return torch.tensor(found, device=self.device)


def levels(x: Tensor) -> Pictures:
    """Floats (N, 3, H, W) in 0 to 1, clamped, as pictures (N, H, W, 3) in 256 levels."""
    return (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True)
class Example:
    """One drawing at the native and at a large size."""

    small: drawing.Drawing
    large: drawing.Drawing


def draw_example(rng: np.random.Generator, native: int, large: int) -> Example:
    """The same drawing twice."""
    kind = "portrait" if rng.random() < PORTRAIT_SHARE else None
    state = rng.bit_generator.state
    small = drawing.draw(rng, native, kind)
    rng.bit_generator.state = state
    return Example(small, drawing.draw(rng, large, kind))


def pairs_of(example: Example, redrawn: Pictures, redrawer: Redrawer) -> list[Pictures]:
    """For each face that is large enough: redrawn and clean, aligned, (2, 512, 512, 3)."""
    side = example.large.image.shape[0]
    big = [f for f in example.large.faces if f.box[3] - f.box[1] > SMALLEST_FACE * side]
    enlarged = redrawer.enlarge(redrawn, side) if big else redrawn
    return [
        np.stack([align(picture, face.landmarks, FACE) for picture in (enlarged, example.large.image)])
        for face in big
    ]


def draw_shard(options: Options, redrawer: Redrawer, number: int) -> None:
    """One shard of redrawn pictures and one of pairs."""
    rng = np.random.default_rng([options.seed, number, 71])
    native, count = options.profile.native, options.scaled(REDRAWN.pictures, REDRAWN.smoke_pictures)
    pictures: list[Pictures] = []
    pairs: list[Pictures] = []
    notes: list[dict[str, Any]] = []
    while len(pictures) < count:
        examples = [
            draw_example(rng, native, native * SCALE) for _ in range(min(BATCH, count - len(pictures)))
        ]
        captions = [example.small.caption for example in examples]
        given = np.stack([example.small.image for example in examples])
        drawn = redrawer.redraw(given, captions, float(rng.uniform(*STRENGTHS)))
        pictures += list(drawn)
        notes += [annotation(example.small) for example in examples]
        for example, picture in zip(examples, drawn, strict=True):
            pairs += pairs_of(example, picture, redrawer)
    folder = options.runs / "data"
    folder.mkdir(parents=True, exist_ok=True)
    _write(shard_path(folder, PAIRS.name, number), pairs, [])
    _write(shard_path(folder, REDRAWN.name, number), pictures, notes)


def _write(path: Path, pictures: list[Pictures], notes: list[dict[str, Any]]) -> None:
    stacked = np.stack(pictures) if pictures else np.zeros((0, 2, FACE, FACE, 3), np.uint8)
    replace(path, lambda p: save(p, stacked))
    replace(path.with_suffix(".json"), lambda p: p.write_text(json.dumps(notes)))


def train(options: Options) -> None:
    """Runs the stage: draws the shards that are missing. Trains nothing."""
    prepare_torch(options)
    redrawer = Redrawer(options)
    for number in range(shards(options, REDRAWN)):
        if not shard_path(options.runs / "data", REDRAWN.name, number).with_suffix(".json").exists():
            draw_shard(options, redrawer, number)
            print(f"redrawn shard {number}", flush=True)


if __name__ == "__main__":
    train(parse_options("Redraws drawings with the trained generator."))
