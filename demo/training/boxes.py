"""RetinaFace's anchors and its multi-box loss (Deng et al. 2019, arXiv:1905.00641; SSD, arXiv:1512.02325).

Boxes are left, top, right, bottom, and all coordinates are fractions of the image's width and height, as in
the network's outputs. Anchors are (center x, center y, width, height).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = (8, 16, 32)
SIDES = ((16, 32), (64, 128), (256, 512))
CENTER_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
MIN_FACE_IOU, MAX_BACKGROUND_IOU = 0.4, 0.3
NEGATIVES_PER_FACE_ANCHOR = 7
LANDMARK_BETA = 0.1  # times CENTER_VARIANCE, in anchors: where the squared error becomes absolute


@lru_cache(maxsize=16)
def anchors(height: int, width: int, device: torch.device) -> Tensor:
    """Anchors (A, 4) for an image size in pixels, in the order of the network's outputs."""
    rows = []
    for step, sides in zip(STEPS, SIDES, strict=True):
        down = (torch.arange(math.ceil(height / step)) + 0.5) * step / height
        across = (torch.arange(math.ceil(width / step)) + 0.5) * step / width
        y, x = torch.meshgrid(down, across, indexing="ij")
        levels = [
            torch.stack((x, y, torch.full_like(x, s / width), torch.full_like(x, s / height)), -1)
            for s in sides
        ]
        rows.append(torch.stack(levels, 2).reshape(-1, 4))
    return torch.cat(rows).to(device)


def corners(centered: Tensor) -> Tensor:
    """(..., 4) from center and size to left, top, right, bottom."""
    return torch.cat(
        (centered[..., :2] - centered[..., 2:] / 2, centered[..., :2] + centered[..., 2:] / 2), -1
    )


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (..., A, B) of boxes (..., A, 4) and (..., B, 4)."""
    a, b = a.unsqueeze(-2), b.unsqueeze(-3)
    intersection = (
        (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    )
    areas = [(x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1) for x in (a, b)]
    return intersection / (areas[0] + areas[1] - intersection).clamp(min=1e-9)


def decode(offsets: Tensor, landmarks: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, A, 4) and landmarks (N, A, 5, 2) from the network's two regression outputs."""
    centers = priors[:, :2] + offsets[..., :2] * CENTER_VARIANCE * priors[:, 2:]
    sizes = priors[:, 2:] * torch.exp(offsets[..., 2:] * SIZE_VARIANCE)
    points = landmarks.unflatten(-1, (5, 2)) * CENTER_VARIANCE * priors[:, None, 2:] + priors[:, None, :2]
    return corners(torch.cat((centers, sizes), -1)), points


def multibox_loss(
    outputs: tuple[Tensor, Tensor, Tensor], boxes: Tensor, landmarks: Tensor, counted: Tensor, priors: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of boxes, classes and landmarks, each a scalar.

    `outputs` as the network returns them in training: box regressions (N, A, 4), class logits (N, A, 2),
    landmarks (N, A, 10). Faces: boxes (N, F, 4), landmarks (N, F, 5, 2); where `counted` (N, F) is 1 a face
    must be found, where 0 it may be, and where -1 there is none. The hardest negatives are mined over the
    whole batch, so images without a face contribute as well.
    """
    offsets, scores, points = (output.float() for output in outputs)
    ious = iou(corners(priors), boxes.nan_to_num(0))  # (N, A, F)
    ious = torch.where((counted >= 0)[:, None], ious, torch.zeros_like(ious))
    required_ious = torch.where((counted == 1)[:, None], ious, torch.zeros_like(ious))
    best, which = required_ious.max(2)
    # Each face is assigned its best anchor, however small the overlap.
    best_anchor = required_ious.argmax(1)  # (N, F)
    row = torch.arange(len(best_anchor), device=best_anchor.device)[:, None].expand_as(best_anchor)
    number = torch.arange(best_anchor.shape[1], device=best_anchor.device).expand_as(best_anchor)
    required = counted == 1
    best[row[required], best_anchor[required]] = 2.0
    which[row[required], best_anchor[required]] = number[required]
    face = best > MIN_FACE_IOU
    background = (ious.max(2).values < MAX_BACKGROUND_IOU) & ~face
    total = face.sum().clamp(min=1)

    image, anchor = face.nonzero(as_tuple=True)
    chosen, prior = which[image, anchor], priors[anchor]
    box, five = boxes[image, chosen], landmarks[image, chosen]
    center = ((box[:, :2] + box[:, 2:]) / 2 - prior[:, :2]) / (CENTER_VARIANCE * prior[:, 2:])
    size = torch.log((box[:, 2:] - box[:, :2]).clamp(min=1e-3) / prior[:, 2:]) / SIZE_VARIANCE
    spots = (five - prior[:, None, :2]) / (CENTER_VARIANCE * prior[:, None, 2:])
    box_loss = (
        F.smooth_l1_loss(offsets[image, anchor], torch.cat((center, size), -1), reduction="sum") / total
    )
    # Close to the absolute error: a squared one has hardly any gradient for errors this small (Feng et al.
    # 2018, arXiv:1711.06753, for landmarks).
    landmark_loss = (
        F.smooth_l1_loss(points[image, anchor], spots.flatten(1), reduction="sum", beta=LANDMARK_BETA) / total
    )

    log_probabilities = scores.log_softmax(-1)
    negatives = torch.where(
        background, -log_probabilities[..., 0], torch.full_like(log_probabilities[..., 0], -1.0)
    ).flatten()
    count = min(negatives.numel(), max(64, NEGATIVES_PER_FACE_ANCHOR * int(face.sum())))
    hardest = negatives.topk(count).values.clamp(min=0)
    class_loss = (-log_probabilities[..., 1][face].sum() + hardest.sum()) / total
    return box_loss, class_loss, landmark_loss
