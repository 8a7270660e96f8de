"""RetinaFace's anchors and its multi-box loss (Deng et al. 2019, arXiv:1905.00641; SSD, arXiv:1512.02325).

Boxes are left, top, right, bottom and all coordinates are shares of the picture's width and height, as in
the network's outputs. Anchors are (centre x, centre y, width, height).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = (8, 16, 32)
SIDES = ((16, 32), (64, 128), (256, 512))
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
OVERLAP_IS_FACE, OVERLAP_IS_NONE = 0.4, 0.3
NEGATIVES_PER_FACE_ANCHOR = 7
LANDMARK_BETA = 0.1  # times CENTRE_VARIANCE, in anchors: where the squared error becomes an absolute one


@lru_cache(maxsize=16)
def anchors(height: int, width: int, device: torch.device) -> Tensor:
    """Anchors (A, 4) of a picture in pixels, in the order of the network's outputs."""
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


def corners(centred: Tensor) -> Tensor:
    """(..., 4) from centre and size to left, top, right, bottom."""
    return torch.cat((centred[..., :2] - centred[..., 2:] / 2, centred[..., :2] + centred[..., 2:] / 2), -1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (..., A, B) of boxes (..., A, 4) and (..., B, 4)."""
    a, b = a.unsqueeze(-2), b.unsqueeze(-3)
    shared = (
        (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    )
    areas = [(x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1) for x in (a, b)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)


def decode(located: Tensor, landmarks: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, A, 4) and landmarks (N, A, 5, 2) from the network's two regressions."""
    centres = priors[:, :2] + located[..., :2] * CENTRE_VARIANCE * priors[:, 2:]
    sizes = priors[:, 2:] * torch.exp(located[..., 2:] * SIZE_VARIANCE)
    points = landmarks.unflatten(-1, (5, 2)) * CENTRE_VARIANCE * priors[:, None, 2:] + priors[:, None, :2]
    return corners(torch.cat((centres, sizes), -1)), points


def multibox_loss(
    outputs: tuple[Tensor, Tensor, Tensor], boxes: Tensor, landmarks: Tensor, counted: Tensor, priors: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of boxes, classes and landmarks, each a number.

    `outputs` as the network gives them while training: regressions (N, A, 4), class scores (N, A, 2) before
    softmax, landmarks (N, A, 10). Faces: boxes (N, F, 4), landmarks (N, F, 5, 2); where `counted` (N, F) is
    1 a face must be found, where 0 it may be, and where -1 there is none. The hardest negatives are taken
    over the whole batch, so pictures without a face teach as well.
    """
    located, scores, points = (output.float() for output in outputs)
    overlaps = overlap(corners(priors), boxes.nan_to_num(0))  # (N, A, F)
    overlaps = torch.where((counted >= 0)[:, None], overlaps, torch.zeros_like(overlaps))
    must = torch.where((counted == 1)[:, None], overlaps, torch.zeros_like(overlaps))
    best, which = must.max(2)
    # Each face keeps its best anchor, however little that overlaps.
    own = must.argmax(1)  # (N, F)
    row = torch.arange(len(own), device=own.device)[:, None].expand_as(own)
    number = torch.arange(own.shape[1], device=own.device).expand_as(own)
    sure = counted == 1
    best[row[sure], own[sure]] = 2.0
    which[row[sure], own[sure]] = number[sure]
    face = best > OVERLAP_IS_FACE
    none = (overlaps.max(2).values < OVERLAP_IS_NONE) & ~face
    total = face.sum().clamp(min=1)

    picture, anchor = face.nonzero(as_tuple=True)
    chosen, prior = which[picture, anchor], priors[anchor]
    box, five = boxes[picture, chosen], landmarks[picture, chosen]
    centre = ((box[:, :2] + box[:, 2:]) / 2 - prior[:, :2]) / (CENTRE_VARIANCE * prior[:, 2:])
    size = torch.log((box[:, 2:] - box[:, :2]).clamp(min=1e-3) / prior[:, 2:]) / SIZE_VARIANCE
    spots = (five - prior[:, None, :2]) / (CENTRE_VARIANCE * prior[:, None, 2:])
    box_loss = (
        F.smooth_l1_loss(located[picture, anchor], torch.cat((centre, size), -1), reduction="sum") / total
    )
    # Almost the absolute error: a squared one hardly sees errors as small as these (Feng et al. 2018,
    # arXiv:1711.06753, for landmarks).
    landmark_loss = (
        F.smooth_l1_loss(points[picture, anchor], spots.flatten(1), reduction="sum", beta=LANDMARK_BETA)
        / total
    )

    chances = scores.log_softmax(-1)
    as_none = torch.where(none, -chances[..., 0], torch.full_like(chances[..., 0], -1.0)).flatten()
    count = min(as_none.numel(), max(64, NEGATIVES_PER_FACE_ANCHOR * int(face.sum())))
    hardest = as_none.topk(count).values.clamp(min=0)
    class_loss = (-chances[..., 1][face].sum() + hardest.sum()) / total
    return box_loss, class_loss, landmark_loss
