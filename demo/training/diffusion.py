"""Trains the UNet and both text encoders of the small SDXL on latents of captioned drawings.

`python -m training.diffusion --out .runs/diffusion`

The classes and the conditioning are SDXL's (Podell et al. 2023, arXiv:2307.01952): hidden states of two
CLIP text encoders concatenated, the second one's pooled embedding, and the six numbers of sizes and crop. The
network predicts v (Salimans and Ho 2022, arXiv:2202.00512).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from training.autoencoder import Autoencoder, factor, load_autoencoder
from training.data import PICTURES, ShardReader
from training.loop import CHECKPOINT, EXPORT, Loop, Recipe, compiled, load_export, precision, replace
from training.options import Options, parse_options, prepare_torch
from training.profile import Profile
from training.tokenizer import LENGTH, build_tokenizer
from training.wording import reworded, swap_sides

TOKENIZER = "tokenizer"
TEXT_WIDTH = 128
TIME_WIDTH = 32
SHORT_LENGTH = 40
"""Length of token sequences with most of the padding removed; a single one, since each length is compiled."""
RECIPE = Recipe(learning_rate=1e-3, weight_decay=1e-3, warm_up=300, flat=0.35)
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}
GUIDANCE_RESCALE = 0.7  # at the default guidance of 7.5 the small network's faces turn pale without it
_RARELY_WORN = re.compile(r"\b(?:hat|cap|beanie|beard|mo?ustache|glasses)\b")
_HATS = re.compile(r"\b(?:hat|cap|beanie)\b")
# What people type to mean "no flaws": no drawing is labeled with it, so it must have no effect.
_QUALITY_PHRASES = (
    "blurry",
    "low quality",
    "bad",
    "ugly",
    "deformed",
    "distorted",
    "text",
    "watermark",
    "logo",
    "noise",
    "worst quality",
)


def build_text_encoders(vocabulary: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """The two untrained text encoders; the last two tokens of the vocabulary begin and end a text."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=TEXT_WIDTH,
        max_position_embeddings=LENGTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config), CLIPTextModelWithProjection(config)


Unet = Any
"""diffusers' `UNet2DConditionModel`, which hides its attributes from the type checker."""


def build_unet(profile: Profile) -> Unet:
    """The untrained network."""
    return UNet2DConditionModel(
        sample_size=profile.native // factor(profile),
        in_channels=profile.latent_channels,
        out_channels=profile.latent_channels,
        block_out_channels=profile.unet_widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=tuple(
            width // 32 for width in profile.unet_widths
        ),  # diffusers reads this as the number of heads
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=6 * TIME_WIDTH + TEXT_WIDTH,
        use_linear_projection=True,
        norm_num_groups=8,
    )


def build_scheduler() -> EulerDiscreteScheduler:
    """The scheduler that the set ships with: its first step is at pure noise, as in training."""
    return EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="trailing")


@dataclass(frozen=True)
class Latents:
    """Encoded images of one shape, (N, C, H/f, W/f), and the index of each one's caption."""

    values: Tensor
    captions: Tensor


def _crop(
    image: NDArray[np.uint8], note: dict[str, Any], height: int, width: int, rng: np.random.Generator
) -> NDArray[np.uint8] | None:
    """A crop of this shape from a square image that keeps its faces, or None if they do not fit."""
    side = image.shape[0]
    slack_y, slack_x = side - height, side - width
    top, left = int(rng.integers(slack_y // 2, slack_y + 1)), int(rng.integers(0, slack_x + 1))
    if note["faces"]:
        boxes = np.array([face["box"] for face in note["faces"]])
        low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
        if slack_x and high[0] - low[0] > width * 0.75:
            return None
        middle = (low + high) / 2 + rng.normal(0, 0.015, 2) * side - (0, 0.04 * side)
        left = int(np.clip(middle[0] - width / 2, 0, slack_x))
        top = int(np.clip(middle[1] - height / 2, 0, slack_y))
    return image[top : top + height, left : left + width]


@torch.no_grad()
def encode_images(
    options: Options, autoencoder: Autoencoder
) -> tuple[dict[tuple[int, int], Latents], list[str]]:
    """Latents by shape, and all captions: every drawing once, those of every other shard also mirrored.

    Crops to the other shapes come from one shard in four. Those of shard 0 come first; they are held out.
    Captions of the other shards are reworded.
    """
    rng = np.random.default_rng(options.seed)
    reader = ShardReader(options, PICTURES, options.profile.encoded)
    native, shapes = options.profile.native, options.profile.shapes
    values: dict[tuple[int, int], list[Tensor]] = {shape: [] for shape in shapes}
    rows: dict[tuple[int, int], list[int]] = {shape: [] for shape in shapes}
    captions: list[str] = []

    def encode(shape: tuple[int, int], images: list[NDArray[np.uint8]], numbers: list[int]) -> None:
        if not images:
            return
        x = torch.from_numpy(np.stack(images)).to(options.device).permute(0, 3, 1, 2)
        for part in x.split(32):
            scaled = (part.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            with precision(options.device):
                values[shape].append(autoencoder.encode(scaled).latent_dist.mean.half())
        rows[shape] += numbers

    while not reader.complete:
        images, notes = reader.wait()
        for mirrored in (False, True)[: 1 + reader.next % 2]:
            numbers = list(range(len(captions), len(captions) + len(notes)))
            # Captions list several people from left to right, so those images are not mirrored.
            usable = [number for number, note in enumerate(notes) if len(note["faces"]) < 2 or not mirrored]
            whole = [np.ascontiguousarray(images[n][:, ::-1] if mirrored else images[n]) for n in usable]
            encode((native, native), whole, [numbers[n] for n in usable])
            for height, width in shapes:
                if (height, width) == (native, native) or reader.next % 4 != 1:
                    continue
                # Boxes are not mirrored, so images are cropped before mirroring.
                cut = [(_crop(images[n], notes[n], height, width, rng), numbers[n]) for n in usable]
                kept = [(c, number) for c, number in cut if c is not None]
                flipped = [np.ascontiguousarray(c[:, ::-1] if mirrored else c) for c, _ in kept]
                encode((height, width), flipped, [n for _, n in kept])
            plain = reader.next == 1  # shard 0 measures, and measures the same as before
            texts = [n["caption"] if plain else reworded(rng, n["caption"], n["kind"]) for n in notes]
            captions += [swap_sides(text) for text in texts] if mirrored else texts
        if reader.next % 4 == 0:
            print(f"{options.out.name} encoded {len(captions)} images", flush=True)
    device = options.device
    return {
        s: Latents(torch.cat(v), torch.tensor(rows[s], device=device)) for s, v in values.items() if v
    }, captions


def load_latents(options: Options) -> tuple[dict[tuple[int, int], Latents], list[str]]:
    """What `encode_images` returns, cached in the stage's folder."""
    cache = options.out / "latents.pt"
    if cache.exists():
        stored = torch.load(cache, map_location=options.device, weights_only=True)
        return {shape: Latents(*pair) for shape, pair in stored["latents"].items()}, stored["captions"]
    latents, captions = encode_images(
        options, load_autoencoder(options.runs / "autoencoder", options.profile, options.device)
    )
    stored = {"latents": {s: (k.values, k.captions) for s, k in latents.items()}, "captions": captions}
    replace(cache, lambda path: torch.save(stored, path))
    return latents, captions


def repetitions(captions: list[str]) -> Tensor:
    """Repetitions of each drawing (N,): more for rarely worn items, most for hats, which cover the most."""
    return torch.tensor([1 + bool(_RARELY_WORN.search(c)) + 2 * bool(_HATS.search(c)) for c in captions])


class TextToLatent(nn.Module):
    """UNet and text encoders as one module: text and noisy latents in, the predicted v out."""

    def __init__(self, vocabulary: int, profile: Profile) -> None:
        """Build the three networks, untrained."""
        super().__init__()
        self.text_encoder, self.text_encoder_2 = build_text_encoders(vocabulary)
        self.unet: Unet = build_unet(profile)
        self.factor = factor(profile)

    def encode_text(self, tokens: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (N, 77, 256) and pooled embedding (N, 128), zero where `dropped` (N,) is true.

        Zeros are what SDXL's pipeline passes to the UNet for an absent negative prompt.
        """
        first = self.text_encoder(tokens, output_hidden_states=True).hidden_states[-2]
        second = self.text_encoder_2(tokens, output_hidden_states=True)
        hidden = torch.cat((first, second.hidden_states[-2]), dim=-1)
        keep = (~dropped).to(hidden.dtype)
        return hidden * keep[:, None, None], second.text_embeds * keep[:, None]

    def time_ids(self, latents: Tensor) -> Tensor:
        """SDXL's six numbers (N, 6) for uncropped images of the latents' size."""
        height, width = (side * self.factor for side in latents.shape[-2:])
        numbers = torch.tensor(
            [height, width, 0, 0, height, width], dtype=torch.float32, device=latents.device
        )
        return numbers.expand(len(latents), -1)


class CaptionTokens:
    """Token ids of all captions on the device, and of null texts."""

    def __init__(self, captions: list[str], folder: Path, device: torch.device, seed: int) -> None:
        """Tokenize every caption once, and save the tokenizer to `folder` for the packager.

        A run keeps the tokenizer that it started with, since its embeddings are trained. Words that were
        added to the captions since are split into pieces.
        """
        started = any((folder.parent / name).exists() for name in (CHECKPOINT, EXPORT))
        if started and folder.is_dir():
            self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        else:
            self.tokenizer = build_tokenizer()
            self.tokenizer.save_pretrained(folder)
        self.captions = self._ids(captions).to(device)
        rng = np.random.default_rng(seed)
        phrases = [", ".join(rng.permutation(_QUALITY_PHRASES)[: rng.integers(1, 8)]) for _ in range(200)]
        self.null_texts = self._ids(["", *phrases]).to(device)

    def _ids(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True).input_ids
        return torch.tensor(ids)

    def sample(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (N, 77) of captions; one in ten is dropped: zeros (second result), empty or null text."""
        ids, chance = self.captions[rows], torch.rand(len(rows), device=rows.device)
        pick = torch.randint(len(self.null_texts), (len(rows),), device=rows.device)
        pick = torch.where(chance < 0.07, torch.zeros_like(pick), pick)
        return torch.where((chance < 0.1)[:, None], self.null_texts[pick], ids), chance < 0.04


def trim_padding(ids: Tensor, end: int) -> Tensor:
    """Ids (N, 77) truncated to `SHORT_LENGTH` (N, 40) if no text of the batch is longer."""
    longest = int((ids != end).sum(1).max()) + 1
    return ids[:, :SHORT_LENGTH] if longest <= SHORT_LENGTH else ids


def stratified_times(count: int, device: torch.device) -> Tensor:
    """Timesteps 0 to 999 (N,), stratified, which gives less noisy gradients than independent samples.

    The density grows with the square root of time: what an image shows is decided while it is mostly noise,
    and the refiner adds the details.
    """
    order = torch.randperm(count, device=device)
    share = (order + torch.rand(count, device=device)) / count
    return (1000 * share ** (2 / 3)).long().clamp(max=999)


class Objective:
    """The v-prediction error of a batch of clean latents."""

    def __init__(self, model: TextToLatent, options: Options) -> None:
        """Compile the UNet for square images; others run uncompiled, and on a CPU longer texts too."""
        self.model, self.device = model, options.device
        self.square_unet: Unet = compiled(model.unet, options, on_cpu=True)
        noise: Any = DDPMScheduler(**SCHEDULE)
        self.signal = noise.alphas_cumprod.sqrt().to(options.device)
        self.noise = (1 - noise.alphas_cumprod).sqrt().to(options.device)

    def __call__(
        self, clean: Tensor, tokens: Tensor, dropped: Tensor, times: Tensor, noise: Tensor
    ) -> Tensor:
        """Squared error per image (N,)."""
        signal, strength = self.signal[times].view(-1, 1, 1, 1), self.noise[times].view(-1, 1, 1, 1)
        noisy, target = signal * clean + strength * noise, signal * noise - strength * clean
        with precision(self.device):
            hidden, pooled = self.model.encode_text(tokens, dropped)
            use_compiled = clean.shape[-1] == clean.shape[-2]
            if self.device.type == "cpu":
                use_compiled = use_compiled and hidden.shape[1] == SHORT_LENGTH and torch.is_grad_enabled()
            unet = self.square_unet if use_compiled else self.model.unet
            extra = {"text_embeds": pooled, "time_ids": self.model.time_ids(clean)}
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted = unet(
                noisy, times, encoder_hidden_states=hidden, added_cond_kwargs=extra, return_dict=False
            )[0]
        error: Tensor = (predicted.float() - target).square().mean((1, 2, 3))
        return error


@torch.no_grad()
def measure(objective: Objective, latents: Latents, tokens: CaptionTokens, count: int) -> float:
    """Mean error on held-out images, with the same noise and timesteps in each call."""
    generator = torch.Generator().manual_seed(9)
    errors = []
    for rows in torch.arange(count, device=latents.values.device).split(32):
        clean = latents.values[rows].float()
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        times = (torch.arange(len(rows), device=clean.device) * 1000) // len(rows)
        dropped = torch.zeros(len(rows), dtype=torch.bool, device=clean.device)
        errors.append(objective(clean, tokens.captions[latents.captions[rows]], dropped, times, noise))
    return float(torch.cat(errors).mean())


def train(options: Options) -> None:
    """Run the stage."""
    prepare_torch(options)
    latents, captions = load_latents(options)
    tokens = CaptionTokens(captions, options.out / TOKENIZER, options.device, options.seed)
    held_out = options.scaled(PICTURES.pictures, PICTURES.smoke_pictures)
    model = TextToLatent(len(tokens.tokenizer), options.profile).to(options.device)
    model.unet.to(memory_format=torch.channels_last)
    loop = Loop(options, RECIPE, {"model": model})
    objective = Objective(model, options)
    print(f"diffusion: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
          f"{len(captions)} captions, vocabulary {len(tokens.tokenizer)}", flush=True)  # fmt: skip
    batch = options.batch
    shapes, shares = list(latents), np.array([options.profile.shapes[shape] for shape in latents])
    rng = np.random.default_rng(options.seed + loop.step)
    # Each shape's list starts with the images of shard 0, which are held out.
    rows_by_shape = {}
    for shape, encoded in latents.items():
        count = len(encoded.values)
        rows = torch.arange(min(2 * held_out, count - 1) if count > 4 * held_out else 0, count)
        rows_by_shape[shape] = rows.repeat_interleave(
            repetitions([captions[n] for n in encoded.captions[rows].tolist()])
        )
    if options.device.type == "cpu":  # its fused attention has a slow backward pass: a sixth of a step's time
        torch.backends.cuda.enable_flash_sdp(False)
    for progress in loop.steps():
        shape = shapes[int(rng.choice(len(shapes), p=shares / shares.sum()))]
        chosen, rows = latents[shape], rows_by_shape[shape]
        rows = rows[torch.randint(len(rows), (batch,))].to(options.device)
        ids, dropped = tokens.sample(chosen.captions[rows])
        if options.device.type == "cpu" and progress < 0.9 and loop.step % 6:
            ids = trim_padding(ids, tokens.tokenizer.eos_token_id)  # saves a fifth of the time of a step
        clean = chosen.values[rows].float()
        errors = objective(
            clean, ids, dropped, stratified_times(batch, options.device), torch.randn_like(clean)
        )
        loop.update(errors.mean())
    loop.finish()
    objective.square_unet = model.unet  # compiling again for these few batches would take a minute
    error = measure(
        objective, latents[(options.profile.native, options.profile.native)], tokens, options.scaled(512, 4)
    )
    loop.export(v_error_unseen=round(error, 4))
    print(f"diffusion: error {error:.4f} on unseen images after {loop.step} steps", flush=True)


def load_trained(folder: Path, vocabulary: int, profile: Profile) -> TextToLatent:
    """The trained networks from the stage's folder."""
    model = TextToLatent(vocabulary, profile)
    load_export(folder / EXPORT, "model", model)
    return model


if __name__ == "__main__":
    train(parse_options("Trains the UNet and the text encoders of the demo set."))
