"""Draws flat portraits and scenes with captions, face boxes and landmarks: training data for the demo models.

Needs only numpy and OpenCV. `draw(rng)` returns one `Drawing`, `python -m drawing` makes a sheet of them.
"""

from .compose import KINDS, PEOPLE_KINDS, Drawing, FaceAnnotation, draw, draw_portrait
from .person import Person, sample_person
from .words import split_words, vocabulary

__all__ = [
    "KINDS",
    "PEOPLE_KINDS",
    "Drawing",
    "FaceAnnotation",
    "Person",
    "draw",
    "draw_portrait",
    "sample_person",
    "split_words",
    "vocabulary",
]
