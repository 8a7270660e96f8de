"""Draws flat portraits and scenes with captions, face boxes and landmarks: training data of the demo models.

Needs numpy and OpenCV only. `draw(rng)` gives one `Drawing`, `python -m drawing` a sheet of them.
"""

from .compose import KINDS, PEOPLE_KINDS, Drawing, FaceAnnotation, draw
from .words import split_words, vocabulary

__all__ = ["KINDS", "PEOPLE_KINDS", "Drawing", "FaceAnnotation", "draw", "split_words", "vocabulary"]
