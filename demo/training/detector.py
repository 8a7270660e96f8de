"""Trains the face detector: facexlib's RetinaFace with MobileNet 0.25, on drawings.

`python -m training.detector --out .runs/detector`

Pictures are moved, turned, scaled, spoiled and set side by side on the device. Part of them is blurred or
passed through the autoencoder, since the faces of a small generator are smeared; part was redrawn by the
trained generator (see redrawn.py), if it is there; part has only scenes.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from facexlib.detection.retinaface import RetinaFace
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from training.autoencoder import Autoencoder, load_autoencoder
from training.boxes import anchors, decode, multibox_loss, overlap
from training.data import LARGES, REDRAWN, PictureStore, is_there
from training.degrade import Smear, add_noise, blur, jpeg, resize, spoil_tones, uniform
from training.loop import EXPORT, Fact, Loop, Recipe, load_export, precision
from training.options import Options, parse_options, prepare_torch

RECIPE = Recipe(learning_rate=2e-3, weight_decay=5e-4, warm_up=200, clip=10.0, flat=0.2)
BGR_MEAN = (104.0, 117.0, 123.0)
FALSE_SHARE = 0.003
REDRAWN_SHARE = 0.35
PREVIEW = 16  # pictures through the autoencoder at a time


def build_detector() -> RetinaFace:
    """The untrained network; in its phase `train` it gives class scores before softmax."""
    return RetinaFace(network_name="mobile0.25", half=False, phase="train", device="cpu")


def load_detector(folder: Path, device: torch.device) -> RetinaFace:
    """The trained network from the stage's folder, frozen."""
    network = load_export(folder / EXPORT, "detector", build_detector())
    return network.to(device).eval().requires_grad_(False)


def to_input(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, W), RGB in 0 to 1, as the network takes them: BGR, 0 to 255, minus a mean."""
    return pictures.flip(1) * 255 - torch.tensor(BGR_MEAN, device=pictures.device).view(1, 3, 1, 1)


@dataclass(frozen=True)
class Scene:
    """A batch: pictures (N, 3, S, S) in 0 to 1, and the faces in shares of S; `counted` as in boxes.py."""

    pictures: Tensor
    boxes: Tensor
    landmarks: Tensor
    counted: Tensor


def move(pictures: Tensor, boxes: Tensor, landmarks: Tensor, side: int, shrink: bool) -> Scene:
    """Scales, turns, mirrors and shifts each picture onto a square of `side` pixels.

    Boxes and landmarks come in pixels of the given pictures. With `shrink` faces get small, else they get
    anything from half the size to a close-up.
    """
    count, size, device = len(pictures), pictures.shape[-1], pictures.device
    if size >= 2 * side:  # shrink by averages first: sampling points alone would leave jagged edges
        factor = size // side
        pictures, boxes, landmarks = F.avg_pool2d(pictures, factor), boxes / factor, landmarks / factor
        size = pictures.shape[-1]

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, device=device)

    zoom = torch.exp(draw(-1.1, 0.1) if shrink else draw(-0.6, 0.65))
    turn = draw(-0.26, 0.26)
    mirror = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    # The picture's centre lands here, in -1 to 1; large pictures may hang over, small ones move about.
    reach = (zoom - 1).abs().clamp(min=0.12) * 0.9
    to_x, to_y = draw(-1, 1) * reach, draw(-1, 1) * reach
    cos, sin = torch.cos(turn), torch.sin(turn)
    # Forward: out = zoom * R @ mirror @ in + to, with coordinates -1 to 1.
    forward = zoom.view(-1, 1, 1) * torch.stack(
        (torch.stack((cos * mirror, -sin), -1), torch.stack((sin * mirror, cos), -1)), 1
    )
    inverse = torch.linalg.inv(forward)
    to = torch.stack((to_x, to_y), -1)
    theta = torch.cat((inverse, -(inverse @ to[:, :, None])), 2)
    grid = F.affine_grid(theta, [count, 3, side, side], align_corners=False)
    moved = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def place(points: Tensor) -> Tensor:  # (N, F, P, 2) pixels -> shares
        unit = points / size * 2 - 1
        return (torch.einsum("nij,nfpj->nfpi", forward, unit) + to[:, None, None] + 1) / 2

    five = place(landmarks)
    # Mirroring swaps left and right.
    swapped = five[:, :, [1, 0, 2, 4, 3]]
    five = torch.where((mirror < 0).view(-1, 1, 1, 1), swapped, five)
    centre = place(((boxes[..., :2] + boxes[..., 2:]) / 2)[:, :, None])[:, :, 0]
    half = (boxes[..., 2:] - boxes[..., :2]) / size * zoom.view(-1, 1, 1) / 2
    placed = torch.cat((centre - half, centre + half), -1)
    return Scene(moved, placed, five, visibility(placed, side))


def visibility(boxes: Tensor, side: int) -> Tensor:
    """1 for faces to find, 0 for faces cut or tiny (either answer is right), -1 for none: (N, F)."""
    inner = (boxes.clamp(0, 1)[..., 2:] - boxes.clamp(0, 1)[..., :2]).prod(-1)
    whole = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    share = inner / whole
    small = (boxes[..., 2] - boxes[..., 0]) * side < 14
    counted = torch.where((share > 0.75) & ~small, 1, 0)
    return torch.where((share > 0.1) & ~boxes[..., 0].isnan(), counted, -1)


def tile(scene: Scene) -> Scene:
    """Each four pictures of the batch as one, two by two; (4N, S) -> (N, 2S)."""
    count, side = len(scene.pictures) // 4, scene.pictures.shape[-1]
    pictures = scene.pictures.view(count, 2, 2, 3, side, side).permute(0, 3, 1, 4, 2, 5)
    offset = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device=pictures.device)
    boxes = (scene.boxes.view(count, 4, -1, 4) + offset.repeat(1, 2)[None, :, None]) / 2
    landmarks = (scene.landmarks.view(count, 4, -1, 5, 2) + offset[None, :, None, None]) / 2
    return Scene(
        pictures.reshape(count, 3, 2 * side, 2 * side),
        boxes.flatten(1, 2),
        landmarks.flatten(1, 2),
        scene.counted.view(count, -1),
    )


def spoil(pictures: Tensor) -> Tensor:
    """Tones, blur, fewer pixels, noise and JPEG, each for some of the batches."""
    side = pictures.shape[-1]
    if torch.rand(()) < 0.6:
        pictures = spoil_tones(pictures)
    if torch.rand(()) < 0.35:
        pictures = blur(pictures, uniform(0.4, side / 110))
    if torch.rand(()) < 0.3:
        small = round(side / uniform(1.5, 4))
        pictures = resize(resize(pictures, small, small), side, side)
    if torch.rand(()) < 0.4:
        pictures = add_noise(pictures, 0.08)
    if torch.rand(()) < 0.3:
        pictures = jpeg(pictures, 30, 95)
    return pictures


class Scenes:
    """Draws training batches from the small and the large pictures."""

    def __init__(self, options: Options) -> None:
        """Waits for the first shards."""
        self.options = options
        self.small = PictureStore(options, least=options.scaled(2000, 8), most=options.scaled(14_000, 16))
        self.large = PictureStore(
            options, LARGES, least=options.scaled(100, 3), most=options.scaled(1400, 3), side=640
        )
        # What a diffusion network draws is further from the drawings than what an autoencoder gives back.
        self.redrawn = PictureStore(options, REDRAWN) if is_there(options, REDRAWN) else None
        self.latest = LatestAutoencoder(options, strongest=1.0)
        self.smear = self.latest.smear()

    def refresh(self) -> None:
        """Takes in new shards, and the autoencoder once it is trained."""
        self.small.refresh()
        self.large.refresh()
        self.smear = self.latest.smear()

    def batch(self, count: int) -> Scene:
        """One batch of `count` pictures, or of a quarter as many tiled ones."""
        sides = self.options.profile.detector_sides
        side = sides[int(torch.randint(len(sides), ()))] if not self.options.smoke else 256
        tiled = bool(torch.rand(()) < 0.25)
        store = self.large if torch.rand(()) < 0.3 else self.small
        if self.redrawn is not None and torch.rand(()) < REDRAWN_SHARE:
            store = self.redrawn
        count = count if side <= 384 else count // 2
        raw, boxes, landmarks = store.sample(count)
        pictures = raw.permute(0, 3, 1, 2).float() / 255
        if store is self.small and self.smear is not None and torch.rand(()) < 0.6:
            pictures = torch.cat([self.smear(part) for part in pictures.split(PREVIEW)])
        scene = move(
            pictures, boxes, landmarks, side // 2 if tiled else side, shrink=bool(torch.rand(()) < 0.4)
        )
        scene = tile(scene) if tiled else scene
        return Scene(spoil(scene.pictures), scene.boxes, scene.landmarks, scene.counted)


def autoencoder_smear(autoencoder: Autoencoder, strongest: float = 0.35) -> Smear:
    """Pictures in 0 to 1 through latents with a random error of up to `strongest` deviations and back."""

    @torch.no_grad()
    def smear(pictures: Tensor) -> Tensor:
        with precision(pictures.device):
            latents = autoencoder.encode(pictures * 2 - 1).latent_dist.mean
            spread = latents.float().std((0, 2, 3), keepdim=True)
            latents = latents + spread * torch.randn_like(latents) * uniform(0, strongest)
            decoded: Tensor = autoencoder.decode(latents).sample
            return (decoded.float() / 2 + 0.5).clamp(0, 1)

    return smear


class LatestAutoencoder:
    """The smear of the autoencoder as it is now, while it may still be in training beside this stage."""

    def __init__(self, options: Options, strongest: float = 0.35) -> None:
        """Looks for the autoencoder beside the stage's own folder; `strongest` as in `autoencoder_smear`."""
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
def detect(network: RetinaFace, pictures: Tensor, threshold: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes (F, 4), landmarks (F, 5, 2), both in pixels, and scores (F,) per picture of (N, 3, H, W)."""
    height, width = pictures.shape[-2:]
    located, scores, points = network(to_input(pictures))
    chances = scores.softmax(-1)[..., 1] if network.phase == "train" else scores[..., 1]
    boxes, landmarks = decode(located, points, anchors(height, width, pictures.device))
    scale = torch.tensor([width, height], device=pictures.device)
    found = []
    for box, five, chance in zip(boxes * scale.repeat(2), landmarks * scale, chances, strict=True):
        sure = chance > threshold
        kept = nms(box[sure], chance[sure], 0.4)
        found.append((box[sure][kept], five[sure][kept], chance[sure][kept]))
    return found


def train(options: Options) -> None:
    """Runs the stage."""
    prepare_torch(options, fixed_shapes=False)
    scenes = Scenes(options)
    network = build_detector().to(options.device).train()
    loop = Loop(options, RECIPE, {"detector": network})
    for _ in loop.steps():
        if loop.step % 200 == 0:
            scenes.refresh()
        with torch.no_grad():
            scene = scenes.batch(max(4, options.batch))
        outputs = network(to_input(scene.pictures))
        priors = anchors(scene.pictures.shape[-2], scene.pictures.shape[-1], options.device)
        box, kind, points = multibox_loss(outputs, scene.boxes, scene.landmarks, scene.counted, priors)
        loop.move(2 * box + kind + points, box=box, kind=kind, points=points)
    loop.finish()
    count = options.scaled(300, 8)
    looked = look(network, scenes.small, count)
    shift = calibration(looked)
    with torch.no_grad():
        for head in network.ClassHead:  # channels: background and face in turn
            head.conv1x1.bias[1::2] += shift
    found = measure(look(network, scenes.small, count))
    loop.export(None, score_shift=round(shift, 3), **found)
    print(f"detector: {found}, scores shifted by {shift:.2f}", flush=True)


@dataclass(frozen=True)
class Looked:
    """What was found on one unseen picture: scores (D,), whether each lies on a face, and the faces there."""

    scores: Tensor
    right: Tensor
    faces: int


def look(network: RetinaFace, store: PictureStore, count: int) -> list[Looked]:
    """Detections with a score above 0.3 on unseen pictures, enlarged to 640 px as the restorer does."""
    pictures, boxes = store._unseen[0][:count], store._unseen[1][:count]
    result = []
    for picture, wanted in zip(pictures, boxes, strict=True):
        x = picture.to(store.device).permute(2, 0, 1)[None].float() / 255
        x = F.interpolate(x, (640, 640), mode="bilinear", align_corners=False)
        found, _, scores = detect(network, x, 0.3)[0]
        wanted = wanted[~wanted[:, 0].isnan()] * (640 / picture.shape[0])
        right = torch.zeros_like(scores, dtype=torch.bool)
        if len(wanted) and len(found):
            right = overlap(found, wanted).max(1).values > 0.5
        result.append(Looked(scores, right, len(wanted)))
    return result


def calibration(looked: list[Looked]) -> float:
    """What to add to the face logits, so that at score 0.8 few detections are false (`FALSE_SHARE`)."""
    scores = torch.cat([one.scores for one in looked])
    right = torch.cat([one.right for one in looked])
    order = scores.argsort(descending=True)
    share = (~right[order]).cumsum(0) / torch.arange(1, len(order) + 1, device=order.device)
    allowed = (share <= FALSE_SHARE).nonzero()
    if not len(allowed):
        return 0.0
    lowest = scores[order][allowed[-1, 0]].clamp(max=1 - 1e-6)
    return float(torch.logit(torch.tensor(0.8)) - torch.logit(lowest).cpu())


def measure(looked: list[Looked]) -> dict[str, Fact]:
    """Recall at an overlap of 0.5, share of false detections and of empty pictures with one, at score 0.8."""
    sure = [one.scores > 0.8 for one in looked]
    detections = sum(int(s.sum()) for s in sure)
    right = sum(int((s & one.right).sum()) for s, one in zip(sure, looked, strict=True))
    empty = [bool(s.any()) for s, one in zip(sure, looked, strict=True) if one.faces == 0]
    return {
        "recall": round(right / max(1, sum(one.faces for one in looked)), 4),
        "false": round((detections - right) / max(1, detections), 4),
        "empty_with_face": round(sum(empty) / max(1, len(empty)), 4),
    }


if __name__ == "__main__":
    train(parse_options("Trains the face detector of the demo set."))
