"""The reference's own packages, made to run next to ours: networks, and helpers that download nothing.

The packages of the dependency group `parity` are imported when they are asked for; a test that asks for one
that is not installed is skipped. spandrel_extra_arches' CodeFormer is under the S-Lab License
1.0, non-commercial use only: we compare with it, and nothing else.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from facexlib.detection.retinaface import RetinaFace
from facexlib.utils import face_restoration_helper
from facexlib.utils.face_restoration_helper import FaceRestoreHelper
from torch import Tensor, nn
from torchvision.transforms import functional

# Removed from torchvision in 0.17. basicsr imports one function from it, which is public elsewhere.
_MISSING_MODULE = "torchvision.transforms.functional_tensor"


def codeformer(state: Mapping[str, Tensor]) -> nn.Module:
    """Return spandrel_extra_arches' CodeFormer. It is not registered with spandrel."""
    architecture = _imported("spandrel_extra_arches.architectures.CodeFormer").CodeFormerArch()
    network: nn.Module = architecture.load(dict(state)).model
    return network.eval()


def rrdbnet(state: Mapping[str, Tensor], scale: int) -> nn.Module:
    """Return basicsr's RRDBNet as Real-ESRGAN configures it."""
    shim = types.ModuleType(_MISSING_MODULE)
    vars(shim)["rgb_to_grayscale"] = functional.rgb_to_grayscale
    sys.modules[_MISSING_MODULE] = shim
    try:
        module = _imported("basicsr.archs.rrdbnet_arch")
        network: nn.Module = module.RRDBNet(num_in_ch=3, num_out_ch=3, scale=scale)
    finally:
        del sys.modules[_MISSING_MODULE]
    network.load_state_dict(state, strict=True)
    return network.eval()


def _imported(module: str) -> types.ModuleType:
    """Skip the test if the package is not installed. One that is installed but does not import fails it."""
    package = module.partition(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"needs {package}, which make test-parity installs")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # they use what was deprecated since: torch.jit, scipy.ndimage.filters
        return import_module(module)


def retinaface(offsets: Tensor, scores: Tensor, landmarks: Tensor) -> RetinaFace:
    """Return facexlib's detector with its postprocessing; the network's output is given: (A, 4), 2, 10."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of an argument that facexlib gives
        detector = RetinaFace(network_name="mobile0.25", device=torch.device("cpu"))
    vars(detector)["forward"] = lambda _: (offsets[None], scores[None], landmarks[None])
    return detector


def restore_helper(
    picture: np.ndarray, landmarks: list[np.ndarray], scale: int, classes: np.ndarray | None = None
) -> FaceRestoreHelper:
    """Return facexlib's helper with a picture (RGB) read and its faces found.

    Its constructor would download two networks. The detector is not called; the parser is replaced by one
    that sees `classes` (512, 512) in each face.
    """
    with patch.multiple(
        face_restoration_helper,
        init_detection_model=lambda *_, **__: None,
        init_parsing_model=lambda *_, **__: _parser(classes),
    ):
        helper = FaceRestoreHelper(scale, use_parse=classes is not None, device=torch.device("cpu"))
    helper.read_image(np.ascontiguousarray(picture[..., ::-1]))
    helper.all_landmarks_5 = [face.copy() for face in landmarks]
    return helper


def _parser(classes: np.ndarray | None) -> Callable[[Tensor], tuple[Any]] | None:
    if classes is None:
        return None
    logits = nn.functional.one_hot(torch.from_numpy(classes.astype(np.int64)), 19).permute(2, 0, 1)[None]
    return lambda _: (logits,)
