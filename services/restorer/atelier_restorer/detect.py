"""Find faces with RetinaFace: prepare, run, decode, suppress duplicates.

Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", CVPR 2020 (arXiv:1905.00641). The
network class is facexlib's; everything around it is ours, because facexlib's own keeps state between calls,
takes one picture at a time and downloads weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from facexlib.detection.retinaface import RetinaFace
from torch import Tensor
from torchvision.ops import nms

from atelier_restorer.nets.checkpoint import load_exactly
from atelier_restorer.request import Face
from atelier_runtime.errors import BadPicture
from atelier_runtime.images import RgbArray

# (stride of a level in px, sides of its square anchors in px)
_LEVELS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
_CENTER_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_MEAN_BGR = (104.0, 117.0, 123.0)
_NMS_OVERLAP = 0.4
_MAX_CANDIDATES = 5000  # the surest that go into the suppression, whose cost is quadratic
_NETWORK_BY_WIDTH = {256: "resnet50", 64: "mobile0.25"}  # channels of the feature pyramid

MAX_SIDE_PX = 2560
"""Longest side that the network is given: a panorama is shrunk below the asked size to bound the memory."""


class FaceDetector:
    """RetinaFace with the backbone that the weights belong to: ResNet50 or MobileNet 0.25."""

    def __init__(self, network: RetinaFace, device: torch.device) -> None:
        self._network = network
        self._device = device

    @property
    def name(self) -> str:
        """Name of the network: `retinaface_resnet50` or `retinaface_mobile0.25`."""
        return str(self._network.model_name)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], device: torch.device) -> FaceDetector:
        """Build the network that a state dict belongs to and load it, in float32.

        Raises:
            ValueError: the tensors are of neither network; the first ten that differ are named.
        """
        pyramid = state.get("fpn.output1.0.weight")
        backbone = None if pyramid is None else _NETWORK_BY_WIDTH.get(pyramid.shape[0])
        if backbone is None:
            raise ValueError("not a RetinaFace of ResNet50 or MobileNet 0.25")
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore", UserWarning)  # facexlib says pretrained=False, torchvision warns
            network = RetinaFace(network_name=backbone, device=torch.device("meta"))
        load_exactly(network, state)
        network.requires_grad_(False)
        return cls(network.to(device, torch.float32).eval(), device)

    def detect(
        self, pictures: Sequence[RgbArray], *, size_px: int, min_confidence: float
    ) -> list[list[Face]]:
        """Find the faces of each picture (uint8 RGB (H, W, 3)), the surest first.

        Args:
            pictures: Those that come to the same shape are run in one batch.
            size_px: Their short side is resized to this, unless the long side would pass `MAX_SIDE_PX`;
                0 leaves them as they are.
            min_confidence: Only faces above it are returned.

        Raises:
            BadPicture: the network's answer is not finite.
        """
        prepared = [_prepare(picture, size_px) for picture in pictures]
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, picture in enumerate(prepared):
            groups.setdefault(picture.shape, []).append(number)
        faces: list[list[Face]] = [[] for _ in pictures]
        for numbers in groups.values():
            found = self._detect_batch(np.stack([prepared[n] for n in numbers]), min_confidence)
            for number, (boxes, landmarks, scores) in zip(numbers, found, strict=True):
                height, width = pictures[number].shape[:2]
                faces[number] = _to_faces(boxes, landmarks, scores, width, height)
        return faces

    @torch.inference_mode()
    def raw(self, batch: RgbArray) -> tuple[Tensor, Tensor, Tensor]:
        """Return box offsets (N, A, 4), scores (N, A, 2), landmark offsets (N, A, 10) of (N, H, W, 3)."""
        x = torch.from_numpy(batch).to(self._device).permute(0, 3, 1, 2).flip(1).float()
        x = x - torch.tensor(_MEAN_BGR, device=self._device).view(1, 3, 1, 1)
        offsets, scores, landmarks = self._network(x)
        return offsets, scores, landmarks

    @torch.inference_mode()
    def _detect_batch(
        self, batch: RgbArray, min_confidence: float
    ) -> list[tuple[RgbArray, RgbArray, RgbArray]]:
        offsets, scores, landmarks = self.raw(batch)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (offsets, scores, landmarks)):
            raise BadPicture("The face detector's answer has non-finite values.")
        anchors = make_anchors(batch.shape[1], batch.shape[2]).to(self._device)
        return [
            decode(offsets[i], scores[i, :, 1], landmarks[i], anchors, min_confidence)
            for i in range(batch.shape[0])
        ]


def _prepare(picture: RgbArray, size_px: int) -> RgbArray:
    height, width = picture.shape[:2]
    scale = size_px / min(height, width) if size_px else 1.0
    scale = min(scale, MAX_SIDE_PX / max(height, width))
    if scale == 1.0:
        return picture
    size = max(1, int(width * scale)), max(1, int(height * scale))
    smoothing = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=smoothing), dtype=np.uint8)


@lru_cache(maxsize=16)
def make_anchors(height: int, width: int) -> Tensor:
    """Return the anchors of a picture (A, 4): centre x, y, width, height as shares of the picture's sides.

    Ordered by level, row, column, size, as the network's answer is. Do not write to it: it is cached.
    """
    levels = []
    for stride, sides in _LEVELS:
        rows, columns = -(-height // stride), -(-width // stride)
        y = (torch.arange(rows, dtype=torch.float32) + 0.5) * (stride / height)
        x = (torch.arange(columns, dtype=torch.float32) + 0.5) * (stride / width)
        side = torch.tensor(sides, dtype=torch.float32)
        shape = (rows, columns, len(sides))
        columns_of = (
            x[None, :, None].expand(shape),
            y[:, None, None].expand(shape),
            (side / width).expand(shape),
            (side / height).expand(shape),
        )
        levels.append(torch.stack(columns_of, dim=-1).reshape(-1, 4))
    return torch.cat(levels)


def decode(
    offsets: Tensor, scores: Tensor, landmarks: Tensor, anchors: Tensor, min_confidence: float
) -> tuple[RgbArray, RgbArray, RgbArray]:
    """Turn one picture's answer into boxes (F, 4), landmarks (F, 5, 2) and scores (F,), the surest first.

    Coordinates are shares of the picture's sides. Kept are scores strictly above ``min_confidence`` that do
    not overlap a surer face by more than 0.4 (intersection over union).
    """
    chosen = (scores > min_confidence).nonzero().flatten()
    chosen = chosen[scores[chosen].argsort(descending=True, stable=True)][:_MAX_CANDIDATES]
    scores, offsets, landmarks, anchors = (t[chosen] for t in (scores, offsets, landmarks, anchors))
    center, size = anchors[:, :2], anchors[:, 2:]
    middle = center + offsets[:, :2] * _CENTER_VARIANCE * size
    half = size * torch.exp(offsets[:, 2:] * _SIZE_VARIANCE) / 2
    boxes = torch.cat((middle - half, middle + half), dim=1)
    points = center[:, None] + landmarks.view(-1, 5, 2) * _CENTER_VARIANCE * size[:, None]
    sane = torch.isfinite(boxes).all(dim=1) & torch.isfinite(points).flatten(1).all(dim=1)
    boxes, points, scores = boxes[sane], points[sane], scores[sane]
    kept = nms(boxes, scores, _NMS_OVERLAP)
    return boxes[kept].cpu().numpy(), points[kept].cpu().numpy(), scores[kept].cpu().numpy()


def _to_faces(boxes: RgbArray, landmarks: RgbArray, scores: RgbArray, width: int, height: int) -> list[Face]:
    sides = np.array([width, height], dtype=np.float64)
    corners = boxes.reshape(-1, 2, 2) * sides
    points = landmarks * sides
    return [
        Face(
            index=index,
            box=(box[0][0], box[0][1], box[1][0], box[1][1]),
            landmarks=tuple((x, y) for x, y in face_points),
            confidence=float(score),
        )
        for index, (box, face_points, score) in enumerate(
            zip(corners.tolist(), points.tolist(), scores, strict=True)
        )
    ]
