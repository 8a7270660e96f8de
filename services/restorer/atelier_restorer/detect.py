"""Finds faces with RetinaFace: resizing, forward pass, decoding, non-maximum suppression.

Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", CVPR 2020 (arXiv:1905.00641). The
network class is facexlib's; everything around it is ours, because facexlib's own code keeps state between
calls, takes one image at a time and downloads weights.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from facexlib.detection.retinaface import RetinaFace
from torch import Tensor
from torchvision.ops import nms

from atelier_restorer.detections import SAME_FACE_OVERLAP, Detections
from atelier_restorer.nets.checkpoint import load_exactly
from atelier_restorer.request import Face
from atelier_runtime.errors import BadImage, InvalidRequest
from atelier_runtime.images import RgbArray
from atelier_runtime.outcomes import ResponseWarning, WarningCode

logger = logging.getLogger(__name__)

# (stride of a level in px, sides of its square anchors in px)
_LEVELS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
_CENTER_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_MEAN_BGR = (104.0, 117.0, 123.0)
_NETWORK_BY_WIDTH = {256: "resnet50", 64: "mobile0.25"}  # channels of the feature pyramid

COARSEST_STRIDE = _LEVELS[-1][0]
"""Pixels of the network's input for one of its coarsest feature map."""

_LESS_MEMORY = 0.75
"""Pixels of the next look after one that had no memory, at most, as a share of its pixels."""

MAX_PIXELS = 25_000_000
"""Maximum pixels of a look at an image, with sides rounded up to the network's coarsest stride.

ResNet50 takes 0.21 GB per megapixel in float32: 5.2 GB for a photo of 6000x4000 px.
"""

MAX_ENLARGED_SIDE_PX = 2560
"""Maximum long side of an image that is enlarged: a strip of a few pixels need not become megapixels."""

MAX_CANDIDATES = 50_000
"""Maximum number of candidates above the requested confidence for non-maximum suppression.

Its cost is quadratic: measured 0.1 s for 5,000, 2 s for 20,000 and 14 s for 50,000 that do not overlap.
"""


class FaceDetector:
    """RetinaFace with the backbone that its weights belong to: ResNet50 or MobileNet 0.25."""

    def __init__(self, network: RetinaFace, device: torch.device) -> None:
        self._network = network
        self._device = device
        self.max_pixels: int | None = None
        """For more pixels at a time the device had no memory; None: it has always had enough."""

    @property
    def name(self) -> str:
        """Name of the network: `retinaface_resnet50` or `retinaface_mobile0.25`."""
        return str(self._network.model_name)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], device: torch.device) -> FaceDetector:
        """Build the network that a state dict belongs to and load it, in float32.

        Raises:
            ValueError: the tensors match neither backbone; the first ten that differ are listed.
        """
        pyramid = state.get("fpn.output1.0.weight")
        backbone = None if pyramid is None else _NETWORK_BY_WIDTH.get(pyramid.shape[0])
        if backbone is None:
            raise ValueError("not a RetinaFace with ResNet50 or MobileNet 0.25")
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore", UserWarning)  # torchvision's, about facexlib's pretrained=False
            network = RetinaFace(network_name=backbone, device=torch.device("meta"))
        load_exactly(network, state)
        network.requires_grad_(False)
        return cls(network.to(device, torch.float32).eval(), device)

    def detect(self, images: Sequence[RgbArray], *, size_px: int, min_confidence: float) -> list[list[Face]]:
        """Look once at each image (uint8 RGB (H, W, 3)): its faces, highest confidence first.

        Args:
            images: Those that have the same shape after resizing run in one batch.
            size_px: See `resized`.
            min_confidence: All faces strictly above it are returned.

        Bounding boxes may extend beyond the image where a face does.

        Raises:
            BadImage: the network's output has non-finite values.
            InvalidRequest: an image is too large for full resolution, or more than `MAX_CANDIDATES`
                candidates are above the confidence.
        """
        inputs = [resized(image, size_px) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(inputs):
            groups.setdefault(image.shape, []).append(number)
        faces: list[list[Face]] = [[] for _ in images]
        for numbers in groups.values():
            found = self.look(np.stack([inputs[n] for n in numbers]), min_confidence)
            for number, detections in zip(numbers, found, strict=True):
                height, width = images[number].shape[:2]
                faces[number] = to_faces(detections, width, height)
        return faces

    def ran_out_of_memory(self, pixels: int) -> None:
        """Remember that the device has no memory for a look at so many pixels, and release what is cached.

        To be called when the failed look's exception is gone: its traceback keeps tensors alive.
        """
        less = int(pixels * _LESS_MEMORY)
        self.max_pixels = less if self.max_pixels is None else min(self.max_pixels, less)
        logger.warning("no memory for a look at an image", extra={"pixels": pixels, "max_pixels": less})
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def raw(self, batch: RgbArray) -> tuple[Tensor, Tensor, Tensor]:
        """Return box offsets (N, A, 4), scores (N, A, 2), landmark offsets (N, A, 10) for (N, H, W, 3)."""
        x = torch.from_numpy(batch).to(self._device).permute(0, 3, 1, 2).flip(1).float()
        x = x - torch.tensor(_MEAN_BGR, device=self._device).view(1, 3, 1, 1)
        offsets, scores, landmarks = self._network(x)
        return offsets, scores, landmarks

    @torch.inference_mode()
    def look(self, batch: RgbArray, min_confidence: float) -> list[Detections]:
        """Find the faces of images of the size that the network sees, uint8 RGB (N, H, W, 3).

        Raises like `detect`.
        """
        offsets, scores, landmarks = self.raw(batch)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (offsets, scores, landmarks)):
            raise BadImage("The output of the face detector has non-finite values.")
        height, width = batch.shape[1:3]
        return [
            decode(offsets[i], scores[i], landmarks[i], height, width, min_confidence)
            for i in range(batch.shape[0])
        ]


def resized(image: RgbArray, size_px: int) -> RgbArray:
    """Return an image (H, W, 3) as a look sees it: its short side resized to `size_px`; 0: as it is.

    It is smaller where it would exceed `MAX_PIXELS`, or be enlarged beyond `MAX_ENLARGED_SIDE_PX`.

    Raises:
        InvalidRequest: the image as it is exceeds `MAX_PIXELS`.
    """
    height, width = image.shape[:2]
    size = look_size(width, height, size_px)
    if size == (width, height):
        return image
    interpolation = cv2.INTER_AREA if size[0] < width else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), dtype=np.uint8)


def look_size(width: int, height: int, size_px: int) -> tuple[int, int]:
    """Return width and height, px, to which `resized` resizes an image. Raises like it."""
    if size_px == 0:
        _check_full_resolution(height, width)
        return width, height
    scale = size_px / min(height, width)
    scale = min(scale, max(1.0, MAX_ENLARGED_SIDE_PX / max(height, width)))
    size = max(1, int(width * scale)), max(1, int(height * scale))
    while (pixels := _pixels(*size)) > MAX_PIXELS:
        scale *= min(0.99, math.sqrt(MAX_PIXELS / pixels))  # rounding up may exceed the limit again
        size = max(1, int(width * scale)), max(1, int(height * scale))
    return size


def size_warnings(width: int, height: int, size_px: int) -> list[ResponseWarning]:
    """Return what to say where an image cannot be resized to the requested size."""
    seen = look_size(width, height, size_px)
    if min(seen) >= size_px - 1:  # rounding
        return []
    message = (
        f"Faces were looked for in {seen[0]}x{seen[1]} px, not with a short side of {size_px} px: the limit "
        f"is {MAX_PIXELS} pixels, and for enlarging an image {MAX_ENLARGED_SIDE_PX} px on its long side."
    )
    return [ResponseWarning(WarningCode.DETECT_SIZE_LIMITED, message)]


def _check_full_resolution(height: int, width: int) -> None:
    pixels = _pixels(width, height)
    if pixels > MAX_PIXELS:
        raise InvalidRequest.of(
            "detect_size_px",
            f"0 means full resolution, {width}x{height} px: {pixels} pixels with sides rounded up to "
            f"multiples of {COARSEST_STRIDE}; the limit is {MAX_PIXELS}. Set a short side in px",
        )


def _pixels(width: int, height: int) -> int:
    """Return what the network's feature maps cover."""
    columns, rows = (-(-side // COARSEST_STRIDE) for side in (width, height))
    return columns * rows * COARSEST_STRIDE**2


@lru_cache(maxsize=8)
def make_anchors(height: int, width: int) -> Tensor:
    """Return the anchors of an image (A, 4): center x, y, width, height as fractions of the image's sides.

    Ordered by level, row, column, size, like the network's output. Cached: do not modify the result.
    """
    levels = []
    for stride, sides in _LEVELS:
        rows, columns = -(-height // stride), -(-width // stride)
        # In float64 and rounded once, as in the reference: the same float32 to the last bit.
        y = (torch.arange(rows, dtype=torch.float64) + 0.5) * stride / height
        x = (torch.arange(columns, dtype=torch.float64) + 0.5) * stride / width
        side = torch.tensor(sides, dtype=torch.float64)
        shape = (rows, columns, len(sides))
        coordinates = (
            x[None, :, None].expand(shape),
            y[:, None, None].expand(shape),
            (side / width).expand(shape),
            (side / height).expand(shape),
        )
        levels.append(torch.stack(coordinates, dim=-1).reshape(-1, 4))
    return torch.cat(levels).float()


def decode(
    offsets: Tensor, scores: Tensor, landmarks: Tensor, height: int, width: int, min_confidence: float
) -> Detections:
    """Decode the network's output for one image: faces above the confidence, after non-maximum suppression.

    A face is suppressed if its box overlaps one of higher confidence by more than 0.4 (intersection over
    union). Where several face probabilities round to the same float32, near 1, those of no face, near 0,
    still tell which is higher: otherwise the order of ties, and so which faces remain, would be arbitrary.

    Args:
        offsets: Box offsets (A, 4).
        scores: Probabilities of no face and of a face (A, 2).
        landmarks: Landmark offsets (A, 10).
        height: Height of the network's input, px.
        width: Width of the network's input, px.
        min_confidence: Only faces of a strictly higher probability are returned.

    Raises:
        InvalidRequest: more than `MAX_CANDIDATES` scores are above the confidence.
    """
    candidates = (scores[:, 1] > min_confidence).nonzero().flatten()
    if len(candidates) > MAX_CANDIDATES:
        raise InvalidRequest.of(
            "min_confidence",
            f"{len(candidates)} candidates are above {min_confidence}; the limit is {MAX_CANDIDATES}. "
            "Set a higher confidence",
        )
    candidates = candidates[scores[candidates, 0].argsort(stable=True)]
    candidates = candidates[scores[candidates, 1].argsort(descending=True, stable=True)]
    anchors = make_anchors(height, width).to(offsets.device)[candidates]
    odds = (scores[candidates, 1].double() / scores[candidates, 0].double().clamp_min(1e-38)).log()
    scores, offsets, landmarks = scores[candidates, 1], offsets[candidates], landmarks[candidates]
    # In px and in the reference's order of float32 operations: rounding decides overlaps close to 0.4.
    sides = torch.tensor([width, height], dtype=torch.float32, device=offsets.device)
    center, size = anchors[:, :2], anchors[:, 2:]
    extent = size * torch.exp(offsets[:, 2:] * _SIZE_VARIANCE)
    low = center + offsets[:, :2] * _CENTER_VARIANCE * size - extent / 2
    boxes = torch.cat((low, extent + low), dim=1) * sides.repeat(2)
    points = center[:, None] + landmarks.view(-1, 5, 2) * _CENTER_VARIANCE * size[:, None]
    points = points * sides
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(points).flatten(1).all(dim=1)
    boxes, points, scores, odds = boxes[finite], points[finite], scores[finite], odds[finite]
    kept = nms(boxes, scores, SAME_FACE_OVERLAP)
    box_sides, point_sides = sides.repeat(2).double(), sides.double()
    return Detections(
        (boxes[kept].double() / box_sides).cpu().numpy(),
        (points[kept].double() / point_sides).cpu().numpy(),
        scores[kept].cpu().numpy(),
        odds[kept].cpu().numpy(),
    )


def to_faces(found: Detections, width: int, height: int) -> list[Face]:
    """Return the faces in px of an image of a width and height, px."""
    sides = np.array([width, height], dtype=np.float64)
    corners = found.boxes.reshape(-1, 2, 2) * sides
    points = found.landmarks * sides
    return [
        Face(
            index=index,
            box=(box[0][0], box[0][1], box[1][0], box[1][1]),
            landmarks=tuple((x, y) for x, y in face_points),
            confidence=float(score),
        )
        for index, (box, face_points, score) in enumerate(
            zip(corners.tolist(), points.tolist(), found.scores, strict=True)
        )
    ]
