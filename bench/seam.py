"""How much the colour around restored faces changes, with matched tones and without, in levels of 255.

`python -m bench.seam` takes the faces of the drawings in docs, each where it is and again on one flat colour,
`python -m bench.seam PICTURE ...` those of other pictures. Detector and CodeFormer are those that variables
ATELIER_RESTORER_* name. Prints JSON. The ring is the feather of the pasted square and 3 px beyond it.
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

_PICTURES = (Path("docs/ruined.png"), Path("docs/demo_sheet.png"))
_FLAT_RGB = ((90, 120, 60), (200, 205, 210), (40, 60, 90))
_SECTORS = 8
_MAX_PIXELS = 2**31


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", metavar="PICTURE", type=Path, nargs="*", default=_PICTURES)
    parser.add_argument("--fidelity", type=float, default=RestoreRequest().fidelity)
    chosen = parser.parse_args(arguments)
    models = load_models(
        settings.load(RestorerSettings), (NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER)
    )
    found = {
        str(path): list(shifts_of(models, path, RestoreRequest(fidelity=chosen.fidelity)))
        for path in chosen.pictures
    }
    every = [shift for shifts in found.values() for shift in shifts]
    print_json(
        {
            "model_set": models.name,
            "fidelity": chosen.fidelity,
            "machine": machine(),
            "faces": found,
            "summary": {
                how: {
                    part: {
                        "mean": round(float(np.mean([shift[how][part] for shift in every])), 2),
                        "most": max(shift[how][part] for shift in every),
                    }
                    for part in ("ring", "worst_eighth")
                }
                for how in ("as_drawn", "tone_matched")
                if every
            },
        }
    )


def shifts_of(models: Models, path: Path, request: RestoreRequest) -> Iterator[dict[str, dict[str, float]]]:
    """Yield, for each face of a picture and each surround, by how much the ring's mean colour has moved."""
    rgb = images.decode(path.read_bytes(), max_pixels=_MAX_PIXELS).eight_bit()
    assert models.detector is not None, "load_models was asked for it"
    looked = DetectRequest()
    faces = models.detector.detect(
        [rgb], size_px=looked.detect_size_px, min_confidence=looked.min_confidence
    )[0]
    for face in faces:
        matrix = face_to_crop(face.landmarks)
        for picture in (rgb, *(on_flat_colour(rgb, matrix, colour) for colour in _FLAT_RGB)):
            yield shifts(models, picture, matrix, request.fidelity)


def on_flat_colour(rgb: RgbArray, matrix: np.ndarray, colour: tuple[int, int, int]) -> RgbArray:
    """Return a picture of which one face's middle is left on one colour."""
    ellipse = np.zeros((CROP_SIZE, CROP_SIZE), np.float32)
    cv2.ellipse(ellipse, (256, 270), (165, 205), 0, 0, 360, 1.0, cv2.FILLED)
    soft = cv2.GaussianBlur(ellipse, (0, 0), 3)
    size = rgb.shape[1], rgb.shape[0]
    share = cv2.warpAffine(soft, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)[..., None]
    return np.rint(rgb * share + np.array(colour) * (1 - share)).astype(np.uint8)


def shifts(
    models: Models, picture: RgbArray, matrix: np.ndarray, fidelity: float
) -> dict[str, dict[str, float]]:
    """Restore and paste one face, with matched tones and without."""
    assert models.codeformer is not None, "load_models was asked for it"
    crop = cut_crop(picture, matrix)
    restored = models.codeformer.restore(crop[None], [(0, fidelity)])[0]
    if isinstance(restored, SkipReason):
        raise SystemExit(f"a face was not restored: {restored}")
    matched = match_tone(restored, crop, matrix, picture.shape[1], picture.shape[0])
    return {
        "as_drawn": shift_of_ring(picture, restored, matrix),
        "tone_matched": shift_of_ring(picture, matched, matrix),
    }


def shift_of_ring(picture: RgbArray, face: RgbArray, matrix: np.ndarray) -> dict[str, float]:
    """Return how many levels the mean of a channel moves at most: in the whole ring, in its worst eighth."""
    after, mask = picture.copy(), np.zeros(picture.shape[:2], np.uint8)
    paste_face(after, mask, face, crop_to_picture(matrix, 1), 1)
    wider = cv2.dilate((mask > 0).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    rows, columns = np.nonzero(wider & (mask < 255))
    change = after[rows, columns].astype(np.float64) - picture[rows, columns]
    angle = np.arctan2(rows - rows.mean(), columns - columns.mean())
    sector = ((angle / (2 * np.pi) + 0.5) * _SECTORS).astype(int) % _SECTORS
    parts = [change[sector == number].mean(axis=0) for number in range(_SECTORS) if (sector == number).any()]
    return {
        "ring": round(float(np.abs(change.mean(axis=0)).max()), 2),
        "worst_eighth": round(float(np.abs(parts).max()), 2),
    }


if __name__ == "__main__":
    main()
