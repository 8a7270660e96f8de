"""Redraws drawings with the trained generator: examples of what it makes of faces, with ground truth.

`python -m training.redrawn --out .runs/redrawn`

Each drawing is partially noised and then denoised by the UNet, conditioned on its caption (SDEdit, Meng et
al. 2021, arXiv:2108.01073). The faces keep their positions, but look as the generator makes them. The
detector learns from the images (`redrawn_NNNN`, next to the other shards) to find such faces, and the last
stage of CodeFormer from pairs of aligned faces (`pairs_NNNN`: redrawn and clean) to restore them.
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
"""Denoising strength, 0 to 1, sampled per batch."""
GUIDANCE = 7.5
BATCH = 8
PORTRAIT_SHARE = 0.75
MIN_FACE = 0.25  # of the image's height: smaller ones make no pair

Images = NDArray[np.uint8]


class Redrawer:
    """The trained base of the set, with the set's upscaler."""

    def __init__(self, options: Options) -> None:
        """Load the stages' exports."""
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
    def redraw(self, images: Images, captions: list[str], strength: float) -> Images:
        """Images (N, S, S, 3), noised to `strength`, 0 to 1, and denoised."""
        scheduler: Any = build_scheduler()
        scheduler.set_timesteps(STEPS)
        first = min(STEPS - 1, round((1 - strength) * STEPS))
        times = scheduler.timesteps[first:]
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with precision(self.device):
            latents = self.autoencoder.encode(x).latent_dist.mean.float()
            ids = self._ids([*[""] * len(captions), *captions])
            dropped = torch.arange(len(ids), device=self.device) < len(captions)
            hidden, pooled = self.model.encode_text(ids, dropped)
            numbers = self.model.time_ids(torch.cat((latents, latents)))
            extra = {"text_embeds": pooled, "time_ids": numbers}
            latents = scheduler.add_noise(latents, torch.randn_like(latents), times[:1])
            for time in times:
                both = scheduler.scale_model_input(torch.cat((latents, latents)), time)
                predicted = self.model.unet(both, time, encoder_hidden_states=hidden, added_cond_kwargs=extra)
                without, text = predicted.sample.float().chunk(2)
                guided = rescale_noise_cfg(without + GUIDANCE * (text - without), text, GUIDANCE_RESCALE)
                latents = scheduler.step(guided, time, latents).prev_sample
            decoded = self.autoencoder.decode(latents).sample.float()
        return levels(decoded / 2 + 0.5)

    @torch.no_grad()
    def upscale(self, image: Images, side: int) -> Images:
        """One image (S, S, 3) resized to (side, side, 3), by the upscaler if it is trained already."""
        if self.upscaler is not None:
            x = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float() / 255
            image = levels(self.upscaler(x))[0]
        interpolation = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(image, (side, side), interpolation=interpolation), np.uint8)

    def _ids(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True).input_ids
        return torch.tensor(ids, device=self.device)


def levels(x: Tensor) -> Images:
    """Floats (N, 3, H, W), clamped to 0 to 1, as 8-bit images (N, H, W, 3)."""
    return (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True)
class Example:
    """One drawing at the native and at a large size."""

    small: drawing.Drawing
    large: drawing.Drawing


def draw_example(rng: np.random.Generator, native: int, large: int) -> Example:
    """Draw the same image at both sizes."""
    kind = "portrait" if rng.random() < PORTRAIT_SHARE else None
    state = rng.bit_generator.state
    small = drawing.draw(rng, native, kind)
    rng.bit_generator.state = state
    return Example(small, drawing.draw(rng, large, kind))


def pairs_of(example: Example, redrawn: Images, redrawer: Redrawer) -> list[Images]:
    """For each face that is large enough: redrawn and clean, aligned, (2, 512, 512, 3)."""
    side = example.large.image.shape[0]
    large_faces = [f for f in example.large.faces if f.box[3] - f.box[1] > MIN_FACE * side]
    upscaled = redrawer.upscale(redrawn, side) if large_faces else redrawn
    return [
        np.stack([align(image, face.landmarks, FACE) for image in (upscaled, example.large.image)])
        for face in large_faces
    ]


def draw_shard(options: Options, redrawer: Redrawer, number: int) -> None:
    """Make one shard of redrawn images and one of pairs."""
    rng = np.random.default_rng([options.seed, number, 71])
    native, count = options.profile.native, options.scaled(REDRAWN.pictures, REDRAWN.smoke_pictures)
    images: list[Images] = []
    pairs: list[Images] = []
    notes: list[dict[str, Any]] = []
    while len(images) < count:
        examples = [draw_example(rng, native, native * SCALE) for _ in range(min(BATCH, count - len(images)))]
        captions = [example.small.caption for example in examples]
        originals = np.stack([example.small.image for example in examples])
        redrawn = redrawer.redraw(originals, captions, float(rng.uniform(*STRENGTHS)))
        images += list(redrawn)
        notes += [annotation(example.small) for example in examples]
        for example, image in zip(examples, redrawn, strict=True):
            pairs += pairs_of(example, image, redrawer)
    folder = options.runs / "data"
    folder.mkdir(parents=True, exist_ok=True)
    _write(shard_path(folder, PAIRS.name, number), pairs, [])
    _write(shard_path(folder, REDRAWN.name, number), images, notes)


def _write(path: Path, images: list[Images], notes: list[dict[str, Any]]) -> None:
    stacked = np.stack(images) if images else np.zeros((0, 2, FACE, FACE, 3), np.uint8)
    replace(path, lambda p: save(p, stacked))
    replace(path.with_suffix(".json"), lambda p: p.write_text(json.dumps(notes)))


def train(options: Options) -> None:
    """Run the stage: make the missing shards. Trains nothing."""
    prepare_torch(options)
    redrawer = Redrawer(options)
    for number in range(shards(options, REDRAWN)):
        if not shard_path(options.runs / "data", REDRAWN.name, number).with_suffix(".json").exists():
            draw_shard(options, redrawer, number)
            print(f"redrawn shard {number}", flush=True)


if __name__ == "__main__":
    train(parse_options("Redraws drawings with the trained generator."))
