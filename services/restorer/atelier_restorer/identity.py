"""Tells how alike two faces are: the cosine of their embeddings by a network of face recognition.

Such a network is one of two kinds:

    OnnxIdentifier      an ONNX file that takes one RGB face of 112 px, 0 to 255, normalizes it itself and
                        returns one vector: SFace of OpenCV's model zoo (Zhong et al. 2021,
                        arXiv:2205.12010), or one of the same interface. OpenCV runs it, on the CPU: next to
                        CodeFormer, with a thousand times the computation, that costs little anywhere
    ArcFaceIdentifier   facexlib's ArcFace, a checkpoint of tensors, which torch runs on the set's device; in
                        `identity_arcface`
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier_restorer.nets.onnx_file import has_external_data
from atelier_restorer.recognition_crop import SIDE, recognition_crop

SFACE_SHA256 = "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79"
"""Of `face_recognition_sface_2021dec.onnx`."""
SFACE = "sface"
RUINED_SIDE = 6
"""A face of so many px could be anybody's: on drawn people the equal error rate is 13 %."""
MIN_CERTAINTY = 0.05
"""Below it a face is no better than its ruin; unless the model set says otherwise."""
_MOST_DIMENSIONS = 4096


class IdentityNetworkError(ValueError):
    """A file is not a network of the expected interface, or its output cannot be used.

    `out_of_memory`: the device has no memory left for it.
    """

    def __init__(self, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


@dataclass(frozen=True)
class Embedding:
    """Who a face shows: a unit vector."""

    direction: NDArray[np.float32]

    def similarity(self, other: Embedding) -> float:
        """Return the cosine of the two, -1 to 1."""
        return float(np.clip(self.direction @ other.direction, -1.0, 1.0))


class FaceIdentifier(ABC):
    """A network of face recognition on aligned crops.

    `on_device`: it belongs to the set's device, so that only the device thread may call it while serving;
    otherwise any thread may. `dimensions`: of its embeddings.
    """

    on_device: ClassVar[bool]
    dimensions: int

    def embed(self, crop: NDArray[np.uint8]) -> Embedding:
        """Embed an aligned crop (512, 512, 3), RGB. Raises `IdentityNetworkError` if that fails.

        One face at a time, so that no face's embedding depends on its neighbors. On a CPU a batch would be no
        faster, and published ONNX files fix its size to 1.
        """
        return self._embed(recognition_crop(crop))

    def certainty(self, crop: NDArray[np.uint8], embedding: Embedding) -> float:
        """Return how much of an aligned crop's embedding is more than a ruin of it shows, 0 to 2.

        The face is shrunk until nobody could tell whose it is, and embedded again. Where the two embeddings
        are about the same, the face was no better to begin with: 1 minus their cosine. Raises like `embed`.
        """
        small = cv2.resize(recognition_crop(crop), (RUINED_SIDE, RUINED_SIDE), interpolation=cv2.INTER_AREA)
        ruin = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        return 1.0 - embedding.similarity(self._embed(np.asarray(ruin, np.uint8)))

    def _embed(self, face: NDArray[np.uint8]) -> Embedding:
        vector = self._vector(face)
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length) or length == 0:
            raise IdentityNetworkError("the embedding of a face is zero or not finite")
        return Embedding(vector / length)

    @abstractmethod
    def _vector(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's output (dimensions,) for a face (112, 112, 3), RGB.

        Raises `IdentityNetworkError`.
        """


def _check_whole(content: bytes) -> None:
    try:
        if has_external_data(content):
            raise IdentityNetworkError(
                "has weights in other files, which are not read; save the network as one file"
            )
    except IdentityNetworkError:
        raise
    except ValueError as error:
        raise IdentityNetworkError(f"cannot be read as a network of recognition: {error}") from error


class OnnxIdentifier(FaceIdentifier):
    """An ONNX file, run by OpenCV on the CPU."""

    on_device = False

    def __init__(self, content: bytes) -> None:
        """Read an ONNX file's content and run it once. Raises `IdentityNetworkError`.

        So it does for a file whose weights are in other files: OpenCV would read them from anywhere.
        """
        _check_whole(content)
        self._lock = threading.Lock()  # a network keeps its input and output in itself
        try:
            self._network: Any = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
            probe = self._run(np.full((SIDE, SIDE, 3), 127, np.uint8))
        except cv2.error as error:
            reason = " ".join(str(error).split())
            raise IdentityNetworkError(f"cannot be read as a network of recognition: {reason}") from error
        if probe.ndim != 2 or probe.shape[0] != 1 or not 2 <= probe.shape[1] <= _MOST_DIMENSIONS:
            raise IdentityNetworkError(
                f"returns an array of shape {probe.shape} for a face of {SIDE} px, not one vector"
            )
        self.dimensions = int(probe.shape[1])

    def _vector(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return np.asarray(self._run(face)[0], np.float32)
        except cv2.error as error:
            raise IdentityNetworkError(f"failed: {' '.join(str(error).split())}") from error

    def _run(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        blob = np.ascontiguousarray(face.transpose(2, 0, 1)[None], np.float32)
        with self._lock:
            self._network.setInput(blob)
            return np.array(self._network.forward())
