"""What long and weighted prompts cost: encoding them, and the UNet's steps with their tokens.

`python -m bench.prompts` uses the model set of ATELIER_GENERATOR_MODEL_SET. With `--published` it also
encodes with text encoders of SDXL's size and made-up weights (3.3 GB in float32), which takes minutes on a
CPU. In each round every case runs once, in turn; ratios are to the plain prompt of one chunk in that round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from atelier_generator.models import load_models
from atelier_generator.nets import published
from atelier_generator.prompt_chunks import encode_chunks, split_prompt, whole_text
from atelier_generator.prompt_syntax import PromptSyntax, parse
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.device import choose_device, choose_dtype
from atelier_runtime.torch_setup import prepare_torch
from atelier_runtime.vram import probe_for
from bench.report import machine, print_json, spread
from bench.synthetic_sdxl import weights

NEGATIVE = "blurry, dark"
PLAIN = "one chunk"


@dataclass(frozen=True)
class Case:
    """A prompt, its syntax, and how many chunks it has."""

    prompt: str
    syntax: PromptSyntax
    chunks: int


CASES: Mapping[str, Case] = {
    PLAIN: Case("portrait of a woman with red hair", "plain", 1),
    "one chunk, weighted": Case("portrait of a (woman:1.2) with (red hair:1.4)", "weighted", 1),
    # 75 is no multiple of 4, so that the chunks differ: equal ones are encoded once
    "four chunks": Case("red hair blue hat " * 75, "plain", 4),
    "four chunks, weighted": Case("(red:1.4) hair blue hat " * 75, "weighted", 4),
}


def encode(pipeline: Any, case: Case, device: torch.device) -> tuple[torch.Tensor | None, ...]:
    """Encode a prompt and a negative one as the generator does."""
    prompt, negative = parse(case.prompt, case.syntax), parse(NEGATIVE, case.syntax)
    text, negative_text = whole_text(pipeline, prompt), whole_text(pipeline, negative)
    if text is None or negative_text is None:
        return encode_chunks(pipeline, prompt, negative, device=device)
    result: tuple[torch.Tensor, ...] = pipeline.encode_prompt(
        prompt=text, device=device, negative_prompt=negative_text
    )
    return result


def measure(
    work: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, dict[str, object]]:
    """Return milliseconds of some calls and their ratios to the first, round by round."""
    probe, first = probe_for(device), next(iter(work))
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):  # the first does not count
        for name, call in work.items():
            probe.synchronize()
            start = time.perf_counter()
            call()
            probe.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {
            "ms": spread([1000 * sample for sample in samples]),
            "ratio": spread([a / b for a, b in zip(samples, seconds[first], strict=True)]),
        }
        for name, samples in seconds.items()
    }


def encoding(pipeline: Any, rounds: int, device: torch.device) -> dict[str, dict[str, object]]:
    """Measure the encoding of each case."""
    for name, case in CASES.items():
        chunks = split_prompt(pipeline.tokenizer_2, parse(case.prompt, case.syntax))
        assert len(chunks) == case.chunks, name
    return measure(
        {name: partial(encode, pipeline, case, device) for name, case in CASES.items()}, rounds, device
    )


def steps(
    unet: Any, chunks: Sequence[int], rounds: int, device: torch.device, side: int
) -> dict[str, dict[str, object]]:
    """Measure the UNet with guidance, two rows, on latents of `side`, with embeddings of some chunks."""
    config, generator = unet.config, torch.Generator(device).manual_seed(0)
    noise = partial(torch.randn, generator=generator, device=device, dtype=unet.dtype)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    conditions = {"text_embeds": noise(2, pooled), "time_ids": noise(2, 6)}
    sample = noise(2, config.in_channels, side, side)
    calls = {
        f"{count} chunks" if count > 1 else PLAIN: partial(
            unet,
            sample,
            500,
            encoder_hidden_states=noise(2, 77 * count, config.cross_attention_dim),
            added_cond_kwargs=conditions,
        )
        for count in chunks
    }
    return measure(calls, rounds, device)


def published_encoders(device: torch.device, dtype: torch.dtype) -> Any:
    """Return SDXL's tokenizers with text encoders of its size as a pipeline that can only encode."""
    from diffusers import StableDiffusionXLPipeline

    parts = {
        part: weights(part, published.configuration("base", part), dtype=dtype, device=device)
        for part in ("text_encoder", "text_encoder_2")
    }
    pipeline_class: Any = StableDiffusionXLPipeline  # diffusers' constructors are not annotated
    return pipeline_class(
        **parts,
        vae=None,
        unet=None,
        scheduler=None,
        tokenizer=published.tokenizer("tokenizer"),
        tokenizer_2=published.tokenizer("tokenizer_2"),
        add_watermarker=False,
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--published", action="store_true", help="text encoders of SDXL's size, too")
    args = parser.parse_args()
    prepare_torch()
    device = choose_device(args.device)
    models = load_models(GeneratorSettings(device=args.device, dtype=args.dtype))
    pipeline = models.text_to_image
    side = models.native_side // pipeline.vae_scale_factor
    with torch.inference_mode():
        result: dict[str, object] = {
            "machine": machine(),
            "dtype": args.dtype,
            "encoding": encoding(pipeline, args.rounds, device),
            "unet": steps(pipeline.unet, (1, 2, 4), args.rounds, device, side),
        }
        if args.published:
            encoders = published_encoders(device, choose_dtype(args.dtype, device))
            result["encoding, published size"] = encoding(encoders, args.rounds, device)
    print_json(result)


if __name__ == "__main__":
    main()
