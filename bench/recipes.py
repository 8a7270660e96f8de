"""What it costs that a picture says how it was made: its recipe, and signed content credentials.

    python -m bench.recipes

A drawing of 1024x1024 px with grain, in each format; milliseconds for each file, in one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from atelier_gateway.core.signing import Claim
from atelier_gateway.credentials import Credentials, summary_of
from atelier_runtime.images import FORMATS, Format, Picture, RgbArray, encode
from atelier_runtime.recipes import DRAWN, mark, read_marks
from atelier_runtime.recipes.drawing import Drawing
from bench.report import machine, print_json, spread
from tests.certificates import make_chain

RUNS = 50
SIDE_PX = 1024
PROMPT = "professional headshot of a woman, soft light, (detailed eyes:1.2), " * 8


def milliseconds(work: Callable[[], object], runs: int = RUNS) -> dict[str, float | int]:
    samples = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        samples.append(1000 * (time.perf_counter() - started))
    return spread(samples)


def drawing() -> Drawing:
    request = {
        **{"prompt": PROMPT, "negative_prompt": PROMPT, "prompt_syntax": "weighted"},
        **{"num_inference_steps": 30, "guidance_scale": 7.5, "sampler": "dpmpp_2m", "schedule": "karras"},
        **{"width": SIDE_PX, "height": SIDE_PX, "seed": 42, "use_refiner": True, "refiner_strength": 0.3},
        **{"use_face_restoration": True, "face_restoration_weight": 0.6, "output_format": "png"},
    }
    faces = [{"box": [100.25, 200.5, 300.75, 400.0], "restored": True, "fidelity": 0.6} for _ in range(4)]
    return Drawing(
        request=request,
        seed=42,
        number=1,
        images=1,
        model_set="sdxl",
        model_set_hash="ab" * 32,
        device="NVIDIA H200, bfloat16",
        size=(SIDE_PX, SIDE_PX),
        restoration={"applied": True, "faces": faces},
    )


def measured(name: Format, pixels: RgbArray, signer: Credentials) -> dict[str, object]:
    plain = encode(Picture(rgb=pixels), name, 92)
    marked = mark(plain, name, drawing().marks())
    claim = Claim(DRAWN, faces=((100, 200, 300, 400),) * 4, model_sets=(("sdxl", "ab" * 32),))
    opened = Claim(DRAWN, marked, claim.faces, claim.model_sets)
    signed = signer.sign(marked, name, claim)
    return {
        "bytes": {
            "plain": len(plain),
            "recipe": len(marked) - len(plain),
            "signature": len(signed) - len(marked),
        },
        "recipe, made and written": milliseconds(lambda: mark(plain, name, drawing().marks())),
        "signed drawing": milliseconds(lambda: signer.sign(marked, name, claim)),
        "signed photograph": milliseconds(lambda: signer.sign(marked, name, opened)),
        "recipe, read": milliseconds(lambda: read_marks(signed)),
        "credentials, read": milliseconds(lambda: summary_of(signed, name)),
    }


def main() -> None:
    grain = np.random.default_rng(0).normal(0, 4, (SIDE_PX, SIDE_PX, 3))
    ramp = np.linspace(0, 255, SIDE_PX)[:, None, None]
    pixels = np.clip(ramp + grain, 0, 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        chain = make_chain(Path(folder))
        signer = Credentials(chain.certificate, chain.key)
        print_json({"machine": machine(), **{name: measured(name, pixels, signer) for name in FORMATS}})


if __name__ == "__main__":
    main()
