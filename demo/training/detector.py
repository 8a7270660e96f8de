"""Trains the face detector: facexlib's RetinaFace with MobileNet 0.25, on drawings.

`python -m training.detector --out .runs/detector`

Images are augmented on the device: random affine, mosaic and degradation. Some are blurred or passed through
the autoencoder, since the faces of a small generator are smeared; some were redrawn by the trained generator
(see redrawn.py), if there are any; some have no faces.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from facexlib.detection.retinaface import RetinaFace
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from training.autoencoder import Autoencoder, load_autoencoder
from training.boxes import anchors, decode, iou, multibox_loss
from training.data import LARGES, REDRAWN, PictureStore, is_there
from training.degrade import Smear, add_noise, blur, jitter_colors, jpeg, resize, uniform
from training.loop import EXPORT, Fact, Loop, Recipe, load_export, precision
from training.options import Options, parse_options, prepare_torch

RECIPE = Recipe(learning_rate=2e-3, weight_decay=5e-4, warm_up=200, clip=10.0, flat=0.2)
BGR_MEAN = (104.0, 117.0, 123.0)
FALSE_SHARE = 0.003
REDRAWN_SHARE = 0.35
PREVIEW = 16  # images through the autoencoder at a time


def build_detector() -> RetinaFace:
    """The untrained network; in its phase `train` it returns class logits."""
    return RetinaFace(network_name="mobile0.25", half=False, phase="train", device="cpu")


def load_detector(folder: Path, device: torch.device) -> RetinaFace:
    """The trained network from the stage's folder, frozen."""
    network = load_export(folder / EXPORT, "detector", build_detector())
    return network.to(device).eval().requires_grad_(False)


def to_input(images: Tensor) -> Tensor:
    """Images (N, 3, H, W), RGB in 0 to 1, as the network takes them: BGR, 0 to 255, minus a mean."""
    return images.flip(1) * 255 - torch.tensor(BGR_MEAN, device=images.device).view(1, 3, 1, 1)


@dataclass(frozen=True)
class Scene:
    """A batch: images (N, 3, S, S) in 0 to 1, and the faces in fractions of S; `counted` as in boxes.py."""

    images: Tensor
    boxes: Tensor
    landmarks: Tensor
    counted: Tensor


def random_affine(images: Tensor, boxes: Tensor, landmarks: Tensor, side: int, shrink: bool) -> Scene:
    """Scale, rotate, mirror and shift each image onto a square of `side` pixels.

    Boxes and landmarks are in pixels of the input images. With `shrink` faces get small, otherwise anything
    from half the size to a close-up.
    """
    count, size, device = len(images), images.shape[-1], images.device
    if size >= 2 * side:  # downsample by area first: point sampling alone would alias
        factor = size // side
        images, boxes, landmarks = F.avg_pool2d(images, factor), boxes / factor, landmarks / factor
        size = images.shape[-1]

    def sample(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, device=device)

    zoom = torch.exp(sample(-1.1, 0.1) if shrink else sample(-0.6, 0.65))
    turn = sample(-0.26, 0.26)
    mirror = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    # Where the image's center goes, in -1 to 1; large images may extend beyond the edge, small ones move
    # inside.
    reach = (zoom - 1).abs().clamp(min=0.12) * 0.9
    to_x, to_y = sample(-1, 1) * reach, sample(-1, 1) * reach
    cos, sin = torch.cos(turn), torch.sin(turn)
    # Forward: out = zoom * R @ mirror @ in + to, with coordinates -1 to 1.
    forward = zoom.view(-1, 1, 1) * torch.stack(
        (torch.stack((cos * mirror, -sin), -1), torch.stack((sin * mirror, cos), -1)), 1
    )
    inverse = torch.linalg.inv(forward)
    to = torch.stack((to_x, to_y), -1)
    theta = torch.cat((inverse, -(inverse @ to[:, :, None])), 2)
    grid = F.affine_grid(theta, [count, 3, side, side], align_corners=False)
    warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def transform(points: Tensor) -> Tensor:  # (N, F, P, 2) pixels -> fractions
        unit = points / size * 2 - 1
        return (torch.einsum("nij,nfpj->nfpi", forward, unit) + to[:, None, None] + 1) / 2

    five = transform(landmarks)
    # Mirroring swaps left and right.
    swapped = five[:, :, [1, 0, 2, 4, 3]]
    five = torch.where((mirror < 0).view(-1, 1, 1, 1), swapped, five)
    center = transform(((boxes[..., :2] + boxes[..., 2:]) / 2)[:, :, None])[:, :, 0]
    half = (boxes[..., 2:] - boxes[..., :2]) / size * zoom.view(-1, 1, 1) / 2
    moved_boxes = torch.cat((center - half, center + half), -1)
    return Scene(warped, moved_boxes, five, visibility(moved_boxes, side))


def visibility(boxes: Tensor, side: int) -> Tensor:
    """1 for faces to find, 0 for cut or tiny ones (either way is fine), -1 for none: (N, F)."""
    inner = (boxes.clamp(0, 1)[..., 2:] - boxes.clamp(0, 1)[..., :2]).prod(-1)
    whole = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    share = inner / whole
    small = (boxes[..., 2] - boxes[..., 0]) * side < 14
    counted = torch.where((share > 0.75) & ~small, 1, 0)
    return torch.where((share > 0.1) & ~boxes[..., 0].isnan(), counted, -1)


def mosaic(scene: Scene) -> Scene:
    """Each four images of the batch as one, two by two; (4N, S) -> (N, 2S)."""
    count, side = len(scene.images) // 4, scene.images.shape[-1]
    images = scene.images.view(count, 2, 2, 3, side, side).permute(0, 3, 1, 4, 2, 5)
    offset = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device=images.device)
    boxes = (scene.boxes.view(count, 4, -1, 4) + offset.repeat(1, 2)[None, :, None]) / 2
    landmarks = (scene.landmarks.view(count, 4, -1, 5, 2) + offset[None, :, None, None]) / 2
    return Scene(
        images.reshape(count, 3, 2 * side, 2 * side),
        boxes.flatten(1, 2),
        landmarks.flatten(1, 2),
        scene.counted.view(count, -1),
    )


def degrade(images: Tensor) -> Tensor:
    """Color jitter, blur, downsampling, noise and JPEG, each for some of the batches."""
    side = images.shape[-1]
    if torch.rand(()) < 0.6:
        images = jitter_colors(images)
    if torch.rand(()) < 0.35:
        images = blur(images, uniform(0.4, side / 110))
    if torch.rand(()) < 0.3:
        small = round(side / uniform(1.5, 4))
        images = resize(resize(images, small, small), side, side)
    if torch.rand(()) < 0.4:
        images = add_noise(images, 0.08)
    if torch.rand(()) < 0.3:
        images = jpeg(images, 30, 95)
    return images


class Scenes:
    """Samples training batches from the small and the large images."""

    def __init__(self, options: Options) -> None:
        """Wait for the first shards."""
        self.options = options
        self.small = PictureStore(options, least=options.scaled(2000, 8), most=options.scaled(14_000, 16))
        self.large = PictureStore(
            options, LARGES, least=options.scaled(100, 3), most=options.scaled(1400, 3), side=640
        )
        # What a diffusion network generates is farther from the drawings than what an autoencoder
        # reconstructs.
        self.redrawn = PictureStore(options, REDRAWN) if is_there(options, REDRAWN) else None
        self.latest = LatestAutoencoder(options, strongest=1.0)
        self.smear = self.latest.smear()

    def refresh(self) -> None:
        """Load new shards, and the autoencoder once it is trained."""
        self.small.refresh()
        self.large.refresh()
        self.smear = self.latest.smear()

    def batch(self, count: int) -> Scene:
        """One batch of `count` images, or of a quarter as many mosaics."""
        sides = self.options.profile.detector_sides
        side = sides[int(torch.randint(len(sides), ()))] if not self.options.smoke else 256
        as_mosaic = bool(torch.rand(()) < 0.25)
        store = self.large if torch.rand(()) < 0.3 else self.small
        if self.redrawn is not None and torch.rand(()) < REDRAWN_SHARE:
            store = self.redrawn
        count = count if side <= 384 else count // 2
        raw, boxes, landmarks = store.sample(count)
        images = raw.permute(0, 3, 1, 2).float() / 255
        if store is self.small and self.smear is not None and torch.rand(()) < 0.6:
            images = torch.cat([self.smear(part) for part in images.split(PREVIEW)])
        scene = random_affine(
            images, boxes, landmarks, side // 2 if as_mosaic else side, shrink=bool(torch.rand(()) < 0.4)
        )
        scene = mosaic(scene) if as_mosaic else scene
        return Scene(degrade(scene.images), scene.boxes, scene.landmarks, scene.counted)


def autoencoder_smear(autoencoder: Autoencoder, strongest: float = 0.35) -> Smear:
    """A function that passes images in 0 to 1 through latents with noise of up to `strongest` deviations."""

    @torch.no_grad()
    def smear(images: Tensor) -> Tensor:
        with precision(images.device):
            latents = autoencoder.encode(images * 2 - 1).latent_dist.mean
            spread = latents.float().std((0, 2, 3), keepdim=True)
            latents = latents + spread * torch.randn_like(latents) * uniform(0, strongest)
            decoded: Tensor = autoencoder.decode(latents).sample
            return (decoded.float() / 2 + 0.5).clamp(0, 1)

    return smear


class LatestAutoencoder:
    """The smear of the latest autoencoder, which may still be training in parallel with this stage."""

    def __init__(self, options: Options, strongest: float = 0.35) -> None:
        """Look for the autoencoder next to the stage's own folder; `strongest` as in `autoencoder_smear`."""
        self.strongest = strongest
        self.folder, self.device, self.profile = options.runs / "autoencoder", options.device, options.profile
        self._written = 0.0
        self._smear: Smear | None = None

    def smear(self) -> Smear | None:
        """The smear, or None before the first export."""
        export = self.folder / EXPORT
        if export.exists() and export.stat().st_mtime > self._written:
            self._written = export.stat().st_mtime
            autoencoder = load_autoencoder(self.folder, self.profile, self.device)
            self._smear = autoencoder_smear(autoencoder, self.strongest)
        return self._smear


@torch.no_grad()
def detect(network: RetinaFace, images: Tensor, threshold: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes (F, 4), landmarks (F, 5, 2), both in pixels, and scores (F,) per image of (N, 3, H, W)."""
    height, width = images.shape[-2:]
    offsets, scores, points = network(to_input(images))
    probabilities = scores.softmax(-1)[..., 1] if network.phase == "train" else scores[..., 1]
    boxes, landmarks = decode(offsets, points, anchors(height, width, images.device))
    scale = torch.tensor([width, height], device=images.device)
    found = []
    for box, five, probability in zip(boxes * scale.repeat(2), landmarks * scale, probabilities, strict=True):
        confident = probability > threshold
        kept = nms(box[confident], probability[confident], 0.4)
        found.append((box[confident][kept], five[confident][kept], probability[confident][kept]))
    return found


def train(options: Options) -> None:
    """Run the stage."""
    prepare_torch(options, fixed_shapes=False)
    scenes = Scenes(options)
    network = build_detector().to(options.device).train()
    loop = Loop(options, RECIPE, {"detector": network})
    for _ in loop.steps():
        if loop.step % 200 == 0:
            scenes.refresh()
        with torch.no_grad():
            scene = scenes.batch(max(4, options.batch))
        outputs = network(to_input(scene.images))
        priors = anchors(scene.images.shape[-2], scene.images.shape[-1], options.device)
        box, kind, points = multibox_loss(outputs, scene.boxes, scene.landmarks, scene.counted, priors)
        loop.update(2 * box + kind + points, box=box, kind=kind, points=points)
    loop.finish()
    count = options.scaled(300, 8)
    detections_by_image = detect_unseen(network, scenes.small, count)
    shift = calibration(detections_by_image)
    with torch.no_grad():
        for head in network.ClassHead:  # channels alternate between background and face
            head.conv1x1.bias[1::2] += shift
    found = measure(detect_unseen(network, scenes.small, count))
    loop.export(None, score_shift=round(shift, 3), **found)
    print(f"detector: {found}, scores shifted by {shift:.2f}", flush=True)


@dataclass(frozen=True)
class Detections:
    """Detections on one held-out image: scores (D,), whether each is a face, and the number of faces."""

    scores: Tensor
    correct: Tensor
    faces: int


def detect_unseen(network: RetinaFace, store: PictureStore, count: int) -> list[Detections]:
    """Detections with a score above 0.3 on held-out images, resized to 640 px as in the restorer."""
    images, boxes = store._unseen[0][:count], store._unseen[1][:count]
    result = []
    for image, expected in zip(images, boxes, strict=True):
        x = image.to(store.device).permute(2, 0, 1)[None].float() / 255
        x = F.interpolate(x, (640, 640), mode="bilinear", align_corners=False)
        found, _, scores = detect(network, x, 0.3)[0]
        expected = expected[~expected[:, 0].isnan()] * (640 / image.shape[0])
        correct = torch.zeros_like(scores, dtype=torch.bool)
        if len(expected) and len(found):
            correct = iou(found, expected).max(1).values > 0.5
        result.append(Detections(scores, correct, len(expected)))
    return result


def calibration(detections_by_image: list[Detections]) -> float:
    """The shift of the face logits at which few detections with score 0.8 are false (`FALSE_SHARE`)."""
    scores = torch.cat([one.scores for one in detections_by_image])
    correct = torch.cat([one.correct for one in detections_by_image])
    order = scores.argsort(descending=True)
    share = (~correct[order]).cumsum(0) / torch.arange(1, len(order) + 1, device=order.device)
    allowed = (share <= FALSE_SHARE).nonzero()
    if not len(allowed):
        return 0.0
    lowest = scores[order][allowed[-1, 0]].clamp(max=1 - 1e-6)
    return float(torch.logit(torch.tensor(0.8)) - torch.logit(lowest).cpu())


def measure(detections_by_image: list[Detections]) -> dict[str, Fact]:
    """At score 0.8: recall at IoU 0.5, share of false detections, share of empty images with a detection."""
    confident = [one.scores > 0.8 for one in detections_by_image]
    detections = sum(int(s.sum()) for s in confident)
    correct = sum(int((s & one.correct).sum()) for s, one in zip(confident, detections_by_image, strict=True))
    empty = [bool(s.any()) for s, one in zip(confident, detections_by_image, strict=True) if one.faces == 0]
    return {
        "recall": round(correct / max(1, sum(one.faces for one in detections_by_image)), 4),
        "false": round((detections - correct) / max(1, detections), 4),
        "empty_with_face": round(sum(empty) / max(1, len(empty)), 4),
    }


if __name__ == "__main__":
    train(parse_options("Trains the face detector of the demo set."))
