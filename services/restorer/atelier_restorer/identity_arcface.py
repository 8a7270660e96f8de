"""Tells faces apart by facexlib's ArcFace, on the device that the other networks run on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier_restorer.identity import FaceIdentifier, IdentityNetworkError
from atelier_restorer.nets.arcface import ArcFace
from atelier_runtime.device import is_out_of_memory

ARCFACE = "arcface"


class ArcFaceIdentifier(FaceIdentifier):
    """ArcFace on uint8 faces, in float32 whatever the settings say: limits are compared with its cosines."""

    on_device = True

    def __init__(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Load a checkpoint. Raises `ValueError` if its tensors are not those of an ArcFace."""
        self._network = ArcFace.from_state_dict(state).to(device)
        self._device = device
        self.dimensions = self._network.config.dimensions

    @torch.inference_mode()
    def _vector(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        bgr = np.ascontiguousarray(face[..., ::-1].transpose(2, 0, 1)[None])
        try:
            x = torch.from_numpy(bgr).to(self._device, torch.float32)
            vector = self._network((x / 255 - 0.5) / 0.5)[0].cpu()
        except Exception as error:  # on a CPU a lack of memory is a RuntimeError
            if not is_out_of_memory(error):
                raise
            message = "the device has no memory left for it"
            raise IdentityNetworkError(message, out_of_memory=True) from None
        return np.asarray(vector.numpy(), np.float32)
