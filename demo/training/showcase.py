"""Makes the README's images from a packaged set with the services' own code.

`python -m training.showcase --to docs`

- `demo_sheet.png`: sixteen prompts, with the seeds listed in `SHEET`, faces restored as in `/generate`.
- `before_after.png`: a degraded drawn face at full size, before and after restoration.
- `fidelity_sweep.png`: the same face at several w, from 0 (cleanest) to 1 (closest to the degraded input).

The face was held out from training; it is blurred, downsampled, noised and compressed like the training's own
"photos", and restored by detection, alignment, CodeFormer and paste-back.
"""

import argparse
import asyncio
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import drawing
from atelier_restorer.request import RestoreRequest
from atelier_restorer.settings import RestorerSettings
from training.degrade import degrade_photo
from training.studio import Studio, finish, restore

SIDE = 768
FACE_SEED = 900_001
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
SWEEP_TILE, SHEET_TILE = 384, 320
LABEL = 36
PARTS = ("demo_sheet", "before_after", "fidelity_sweep")
SHEET: tuple[tuple[str, int], ...] = (
    ("professional headshot, sharp eyes, natural skin", 5),
    ("portrait of an old man with a white beard and round glasses, blue background", 5),
    ("a smiling woman with long red hair and glasses, blue background", 5),
    ("a serious man with short black hair and a beard, yellow background", 5),
    ("a woman with curly blond hair, green background", 5),
    ("businessman in suit, gray background", 5),
    ("a man wearing a red cap, white background", 5),
    ("a smiling girl with pink hair, purple background", 5),
    ("portrait of a happy woman with brown hair, orange background", 5),
    ("a bald man with a beard, pink background", 5),
    ("a man with short brown hair and a woman with long black hair, white background", 5),
    ("sunset over mountains", 5),
    ("a red sports car", 5),
    ("a red apple on a table", 5),
    ("a yellow house with a red roof", 5),
    ("green hills and the sun", 5),
)

Image = NDArray[np.uint8]


def write(image: Image, path: Path) -> None:
    """Write an image (H, W, 3), RGB, as PNG. Raises OSError if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise OSError(f"cannot write {path}")
    print(path, flush=True)


def write_sheet(images: list[Image], path: Path, columns: int = 4) -> None:
    """Write the images side by side, row by row."""
    size = (SHEET_TILE, SHEET_TILE)
    tiles = [np.asarray(cv2.resize(p, size, interpolation=cv2.INTER_AREA), np.uint8) for p in images]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    write(np.concatenate(rows), path)


def labeled(image: Image, text: str) -> Image:
    """The image with a line of text below it, on white."""
    strip = np.full((LABEL, image.shape[1], 3), 255, np.uint8)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 1)
    position = ((image.shape[1] - width) // 2, (LABEL + height) // 2)
    cv2.putText(strip, text, position, cv2.FONT_HERSHEY_SIMPLEX, 0.7, (40, 28, 34), 1, cv2.LINE_AA)
    return np.concatenate([image, strip])


def degraded_face(seed: int) -> tuple[Image, tuple[float, float, float, float]]:
    """A degraded portrait (768, 768, 3), and the box of its face in pixels."""
    torch.manual_seed(seed)
    drawn = drawing.draw(np.random.default_rng(seed), SIDE, "portrait")
    clean = torch.from_numpy(drawn.image).permute(2, 0, 1)[None].float() / 255
    degraded = (degrade_photo(clean)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    return degraded, drawn.faces[0].box


def close_up(image: Image, box: tuple[float, float, float, float]) -> Image:
    """A square around a face (384, 384, 3), within the image."""
    side = min(1.7 * (box[3] - box[1]), min(image.shape[:2]))
    left = float(np.clip((box[0] + box[2] - side) / 2, 0, image.shape[1] - side))
    top = float(np.clip((box[1] + box[3] - side) / 2, 0, image.shape[0] - side))
    part = image[round(top) : round(top + side), round(left) : round(left + side)]
    interpolation = cv2.INTER_AREA if side > SWEEP_TILE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (SWEEP_TILE, SWEEP_TILE), interpolation=interpolation), np.uint8)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="demo", help="'demo' or the folder of a model set")
    parser.add_argument("--seed", type=int, default=FACE_SEED, help="of the degraded face")
    parser.add_argument(
        "--fidelity", type=float, default=RestoreRequest().fidelity, help="w of the restored image"
    )
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--to", type=Path, default=Path("docs"), help="folder to write to")
    given = parser.parse_args()
    settings = RestorerSettings.model_validate({"model_set": given.set, "device": "cpu"})
    if "demo_sheet" in given.only:
        studio = Studio(given.set, given.steps, guidance=7.5, side=1024)
        generated = [studio.generate(prompt, seed) for prompt, seed in SHEET]
        write_sheet(asyncio.run(finish(settings, generated)), given.to / "demo_sheet.png")
    if {"before_after", "fidelity_sweep"} & set(given.only):
        degraded, box = degraded_face(given.seed)
        restored, *sweep = asyncio.run(restore(settings, degraded, (given.fidelity, *SWEEP)))
        if "before_after" in given.only:
            write(np.concatenate([degraded, restored], 1), given.to / "before_after.png")
        if "fidelity_sweep" in given.only:
            tiles = [labeled(close_up(degraded, box), "ruined")]
            labels = zip(sweep, SWEEP, strict=True)
            tiles += [labeled(close_up(image, box), f"w = {w:g}") for image, w in labels]
            write(np.concatenate(tiles, 1), given.to / "fidelity_sweep.png")


if __name__ == "__main__":
    main()
