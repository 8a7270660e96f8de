"""What ParseNet, with the goldens' weights, sees in the images that stand in for restored faces."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from atelier_restorer.parse import FaceParser
from tests.parity import recipe
from tests.parity.reference_paste import restored


@cache
def parser(seed: int) -> FaceParser:
    """Return the network with the weights of a seed."""
    return FaceParser.from_state_dict(recipe.state_dict("parsenet", seed), torch.device("cpu"))


@cache
def classes(number: int) -> np.ndarray:
    """Return the classes (512, 512) of the number-th restored face, with the weights of seed 1."""
    return np.asarray(parser(1).classify(restored(number)[None])[0])
