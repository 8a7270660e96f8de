"""Images with faces at known positions, for timing a restorer without its networks.

A face is a square of the image with five landmarks. What CodeFormer and a parser would return is prepared:
the time that the rest takes depends on neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from atelier_restorer.align import CROP_SIZE, TEMPLATE
from atelier_runtime.images import Format, Picture, RgbArray, decode, encode

Points = list[tuple[float, float]]

LARGEST_SQUARE_PX = 1000
"""A 24-megapixel portrait shows a face of about half this, not one that fills its 4000 px."""
_SHARE_OF_CELL = 0.7  # rotated by 20 degrees, a square still fits its cell
_ROLLS_DEGREES = (0.0, 12.0, -7.0, 20.0, -16.0)
_ASPECT = 1.5
_PATCHES = 16  # per side
_GRAIN_LEVELS = 3.0
# ParseNet's classes
_BACKGROUND, _SKIN, _EYE, _MOUTH, _HAIR, _NECK = 0, 1, 4, 10, 13, 17


@dataclass(frozen=True)
class FaceScene:
    """An image as a file and as pixels, its faces, and what the networks are assumed to return.

    `restored`: uint8 RGB (F, 512, 512, 3). `classes`: uint8 (F, 512, 512), ParseNet's.
    """

    file: bytes
    file_format: Format
    image: RgbArray
    faces: tuple[Points, ...]
    square_px: int
    restored: RgbArray
    classes: RgbArray


def make_scene(megapixels: float, faces: int, *, file_format: Format = "png", seed: int = 0) -> FaceScene:
    """Return an image of this size with so many faces on a grid, rotated by up to 20 degrees."""
    width, height = image_size(megapixels)
    square, faces_at = grid(width, height, faces)
    return _scene(width, height, square, faces_at, file_format, seed)


def make_scene_with_one_face(
    megapixels: float, square_px: int, *, file_format: Format = "png", seed: int = 0
) -> FaceScene:
    """Return an image whose face is the same at any image size: equally large, at the top left."""
    width, height = image_size(megapixels)
    points = landmarks(square_px * 0.75, square_px * 0.75, square_px, _ROLLS_DEGREES[1])
    return _scene(width, height, square_px, [points], file_format, seed)


def image_size(megapixels: float) -> tuple[int, int]:
    """Return width and height, px, of an image with an aspect ratio of 3:2."""
    height = round(math.sqrt(megapixels * 1e6 / _ASPECT))
    return round(height * _ASPECT), height


def grid(width: int, height: int, faces: int) -> tuple[int, list[Points]]:
    """Return the side of the faces' squares, px, and each face's landmarks; no two squares overlap."""
    columns = math.ceil(math.sqrt(faces * width / height))
    rows = math.ceil(faces / columns)
    across, down = width / columns, height / rows
    square = min(LARGEST_SQUARE_PX, int(_SHARE_OF_CELL * min(across, down)))
    faces_at = []
    for number in range(faces):
        row, column = divmod(number, columns)
        roll = _ROLLS_DEGREES[number % len(_ROLLS_DEGREES)]
        faces_at.append(landmarks((column + 0.5) * across, (row + 0.5) * down, square, roll))
    return square, faces_at


def landmarks(x: float, y: float, square_px: float, roll_degrees: float) -> Points:
    """Return the landmarks of a face whose square has this side and is centered at (x, y)."""
    roll = math.radians(roll_degrees)
    rotation = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    points = (TEMPLATE - CROP_SIZE / 2) * (square_px / CROP_SIZE) @ rotation.T + (x, y)
    return [(float(px), float(py)) for px, py in points]


def _scene(
    width: int, height: int, square: int, faces_at: list[Points], file_format: Format, seed: int
) -> FaceScene:
    generator = np.random.default_rng(seed)
    file = encode(Picture(patches(generator, width, height)), file_format, 95)
    return FaceScene(
        file=file,
        file_format=file_format,
        image=decode(file, max_pixels=width * height).rgb,
        faces=tuple(faces_at),
        square_px=square,
        restored=np.stack([patches(generator, CROP_SIZE, CROP_SIZE) for _ in faces_at]),
        classes=np.stack([_parsed_face(generator) for _ in faces_at]),
    )


def patches(generator: np.random.Generator, width: int, height: int) -> RgbArray:
    """Return soft patches of color with a photo's grain, uint8 (height, width, 3)."""
    colors = generator.uniform(20, 235, (_PATCHES, _PATCHES, 3)).astype(np.uint8)
    smooth = cv2.resize(colors, (width, height), interpolation=cv2.INTER_CUBIC)
    # One tile of grain for all: random numbers for each of 24 megapixels take longer than what is timed.
    grain = generator.normal(0, _GRAIN_LEVELS, (CROP_SIZE, CROP_SIZE, 3)).astype(np.int8)
    for top in range(0, height, CROP_SIZE):
        for left in range(0, width, CROP_SIZE):
            tile = smooth[top : top + CROP_SIZE, left : left + CROP_SIZE]
            tile[...] = np.clip(tile + grain[: tile.shape[0], : tile.shape[1]].astype(np.int16), 0, 255)
    return np.asarray(smooth, dtype=np.uint8)


def _parsed_face(generator: np.random.Generator) -> RgbArray:
    """Return a face as a parser sees it: hair above, neck below, skin with eyes and mouth between."""
    classes = np.full((CROP_SIZE, CROP_SIZE), _BACKGROUND, np.uint8)
    x, y = 256 + int(generator.integers(-8, 9)), 290 + int(generator.integers(-8, 9))
    cv2.rectangle(classes, (x - 70, y + 60), (x + 70, CROP_SIZE), _NECK, cv2.FILLED)
    cv2.ellipse(classes, (x, y - 50), (150, 150), 0, 0, 360, _HAIR, cv2.FILLED)
    cv2.ellipse(classes, (x, y), (125, 145), 0, 0, 360, _SKIN, cv2.FILLED)
    for eye in (x - 60, x + 60):
        cv2.ellipse(classes, (eye, y - 50), (28, 14), 0, 0, 360, _EYE, cv2.FILLED)
    cv2.ellipse(classes, (x, y + 80), (50, 20), 0, 0, 360, _MOUTH, cv2.FILLED)
    return classes
