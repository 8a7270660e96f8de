"""Contact sheet of drawings with their captions: `python -m drawing --seed 1 --count 16 --out sheet.png`."""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from . import KINDS, Drawing, draw


def marked(drawing: Drawing) -> NDArray[np.uint8]:
    """The image with its face boxes and landmarks marked."""
    image = drawing.image.copy()
    for face in drawing.faces:
        left, top, right, bottom = (round(edge) for edge in face.box)
        cv2.rectangle(image, (left, top), (right, bottom), (0, 255, 0), 1)
        for x, y in face.landmarks:
            cv2.circle(image, (round(float(x)), round(float(y))), 2, (255, 0, 255), -1)
    return image


def contact_sheet(images: list[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Images of one size side by side, row by row; the rest of the last row is white."""
    side = images[0].shape[0]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * side, columns * side, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * side, index % columns * side
        sheet[top : top + side, left : left + side] = image
    return sheet


def main() -> None:
    """Draw a sheet; print the captions and the time per image."""
    parser = argparse.ArgumentParser(prog="python -m drawing", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=16, help="number of images")
    parser.add_argument("--size", type=int, default=256, help="side of one image in pixels")
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--kind", choices=KINDS, help="draw only this kind")
    parser.add_argument("--marks", action="store_true", help="show boxes and landmarks")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .png or .jpg")
    options = parser.parse_args()
    if options.count < 1 or options.columns < 1:
        parser.error("--count and --columns must be at least 1")
    rng = np.random.default_rng(options.seed)
    start = time.perf_counter()
    drawings = [draw(rng, options.size, options.kind) for _ in range(options.count)]
    elapsed = time.perf_counter() - start
    for number, drawing in enumerate(drawings, 1):
        print(f"{number:3d}  [{drawing.kind}] {drawing.caption}")
    images = [marked(drawing) if options.marks else drawing.image for drawing in drawings]
    sheet = contact_sheet(images, min(options.columns, len(images)))
    if not cv2.imwrite(str(options.out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise SystemExit(f"cannot write {options.out}")
    print(f"{options.out}: {elapsed / options.count * 1000:.1f} ms per image")


if __name__ == "__main__":
    main()
