"""How much the color around restored faces shifts, with matched tone and without, in levels of 255.

`python -m bench.seam` takes the faces of the drawings in docs, each in place and again on flat colors,
`python -m bench.seam IMAGE ...` those of other images. Detector and CodeFormer are those that the
ATELIER_RESTORER_* variables select. Prints JSON. The ring is the pasted square's feather and 3 px beyond it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from atelier_restorer.align import CROP_SIZE, crop_to_picture, cut_crop, face_to_crop
from atelier_restorer.models import Models, load_models
from atelier_restorer.paste import paste_face
from atelier_restorer.request import DetectRequest, RestoreRequest
from atelier_restorer.settings import RestorerSettings
from atelier_restorer.tone import match_tone
from atelier_runtime import images, settings
from atelier_runtime.images import RgbArray
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.service_status import NetworkRole
from bench.report import machine, print_json

_IMAGES = (Path("docs/ruined.png"), Path("docs/demo_sheet.png"))
_FLAT_RGB = ((90, 120, 60), (200, 205, 210), (40, 60, 90))
_SECTORS = 8
_MAX_PIXELS = 2**31


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="*", default=_IMAGES)
    parser.add_argument("--fidelity", type=float, default=RestoreRequest().fidelity)
    given = parser.parse_args(arguments)
    models = load_models(
        settings.load(RestorerSettings), (NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER)
    )
    found = {
        str(path): list(shifts_of(models, path, RestoreRequest(fidelity=given.fidelity)))
        for path in given.images
    }
    all_shifts = [shift for shifts in found.values() for shift in shifts]
    print_json(
        {
            "model_set": models.name,
            "fidelity": given.fidelity,
            "machine": machine(),
            "faces": found,
            "summary": {
                how: {
                    part: {
                        "mean": round(float(np.mean([shift[how][part] for shift in all_shifts])), 2),
                        "max": max(shift[how][part] for shift in all_shifts),
                    }
                    for part in ("ring", "worst_eighth")
                }
                for how in ("as_restored", "tone_matched")
                if all_shifts
            },
        }
    )


def shifts_of(models: Models, path: Path, request: RestoreRequest) -> Iterator[dict[str, dict[str, float]]]:
    """Yield, for each face of an image and each background, by how much the ring's mean color shifts."""
    rgb = images.decode(path.read_bytes(), max_pixels=_MAX_PIXELS).eight_bit()
    assert models.detector is not None, "load_models loads it"
    request_defaults = DetectRequest()
    faces = models.detector.detect(
        [rgb], size_px=request_defaults.detect_size_px, min_confidence=request_defaults.min_confidence
    )[0]
    for face in faces:
        matrix = face_to_crop(face.landmarks)
        for image in (rgb, *(on_flat_color(rgb, matrix, color) for color in _FLAT_RGB)):
            yield shifts(models, image, matrix, request.fidelity)


def on_flat_color(rgb: RgbArray, matrix: np.ndarray, color: tuple[int, int, int]) -> RgbArray:
    """Return an image with only the middle of one face left, on one color."""
    ellipse = np.zeros((CROP_SIZE, CROP_SIZE), np.float32)
    cv2.ellipse(ellipse, (256, 270), (165, 205), 0, 0, 360, 1.0, cv2.FILLED)
    soft = cv2.GaussianBlur(ellipse, (0, 0), 3)
    size = rgb.shape[1], rgb.shape[0]
    opacity = cv2.warpAffine(soft, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)[..., None]
    return np.rint(rgb * opacity + np.array(color) * (1 - opacity)).astype(np.uint8)


def shifts(
    models: Models, image: RgbArray, matrix: np.ndarray, fidelity: float
) -> dict[str, dict[str, float]]:
    """Restore and paste one face, with matched tone and without."""
    assert models.codeformer is not None, "load_models loads it"
    crop = cut_crop(image, matrix)
    restored = models.codeformer.restore(crop[None], [(0, fidelity)])[0]
    if isinstance(restored, SkipReason):
        raise SystemExit(f"a face was not restored: {restored}")
    matched = match_tone(restored, crop, matrix, image.shape[1], image.shape[0])
    return {
        "as_restored": shift_of_ring(image, restored, matrix),
        "tone_matched": shift_of_ring(image, matched, matrix),
    }


def shift_of_ring(image: RgbArray, face: RgbArray, matrix: np.ndarray) -> dict[str, float]:
    """Return by how many levels a channel's mean shifts at most: in the whole ring, in its worst eighth."""
    after, mask = image.copy(), np.zeros(image.shape[:2], np.uint8)
    paste_face(after, mask, face, crop_to_picture(matrix, 1), 1)
    wider = cv2.dilate((mask > 0).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    rows, columns = np.nonzero(wider & (mask < 255))
    change = after[rows, columns].astype(np.float64) - image[rows, columns]
    angle = np.arctan2(rows - rows.mean(), columns - columns.mean())
    sector = ((angle / (2 * np.pi) + 0.5) * _SECTORS).astype(int) % _SECTORS
    parts = [change[sector == number].mean(axis=0) for number in range(_SECTORS) if (sector == number).any()]
    return {
        "ring": round(float(np.abs(change.mean(axis=0)).max()), 2),
        "worst_eighth": round(float(np.abs(parts).max()), 2),
    }


if __name__ == "__main__":
    main()
