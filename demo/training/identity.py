"""The identity network: tells drawn people apart, through bad cameras and through restoration.

`python -m training.identity --out .runs/identity`

A small residual network on faces of 112 px, aligned by ArcFace's template, with a global depthwise
convolution before the embedding, as MobileFaceNet has (Chen et al. 2018, arXiv:1804.07573). It learns to name
each person of the training set with an additive cosine margin (CosFace, Wang et al. 2018, arXiv:1801.09414,
equation 4); what it is used for is the cosine of two embeddings. The views are from `people.py`.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from atelier_restorer.recognition_crop import SIDE
from training.data import PEOPLE, ShardReader, shards
from training.degrade import add_noise, blur, jpeg, resize, uniform
from training.loop import EXPORT, Loop, Recipe, load_export
from training.options import Options, parse_options, prepare_torch

RECIPE = Recipe(learning_rate=2e-3, weight_decay=5e-4, warm_up=100, flat=0.3)
DIMENSIONS = 128
WIDTHS = (24, 48, 80, 128)
SCALE, MARGIN = 24.0, 0.25
MARGIN_GROWS = 0.15  # of the budget, before the margin is whole
DEGRADED_SHARE = 0.6
GRAY_SHARE = 0.1
CALIBRATION = "calibration.json"
"""In the stage's folder: what the manifest says of the network, as `score_identity.py` measured it."""
Image = NDArray[np.uint8]


class Residual(nn.Module):
    """Two convolutions whose result is added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W) to the same shape."""
        result: Tensor = x + self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return result


class Down(nn.Module):
    """A convolution that halves height and width."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(after)
        self.act = nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D, H / 2, W / 2)."""
        result: Tensor = self.act(self.norm(self.conv(x)))
        return result


class IdentityNet(nn.Module):
    """RGB faces (N, 3, 112, 112), 0 to 255, to embeddings (N, 128) whose cosine says how alike they are."""

    def __init__(self) -> None:
        """Build the untrained network."""
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in WIDTHS:
            layers.append(Down(before, width))
            if before != 3:
                layers.append(Residual(width))
            before = width
        self.layers = nn.Sequential(*layers)
        side = SIDE // 2 ** len(WIDTHS)
        self.pool = nn.Conv2d(before, before, side, groups=before, bias=False)
        self.pool_norm = nn.BatchNorm2d(before)
        self.embed = nn.Linear(before, DIMENSIONS, bias=False)
        self.embed_norm = nn.BatchNorm1d(DIMENSIONS)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.layers((x - 127.5) / 128)
        result: Tensor = self.embed_norm(self.embed(self.pool_norm(self.pool(x)).flatten(1)))
        return result


class MarginHead(nn.Module):
    """One direction per person; the logits are cosines, the right one lowered by a margin."""

    def __init__(self, people: int) -> None:
        """Sample the directions of so many people."""
        super().__init__()
        self.directions = nn.Parameter(torch.randn(people, DIMENSIONS) / DIMENSIONS**0.5)

    def forward(self, embeddings: Tensor, people: Tensor, margin: float) -> Tensor:
        """Logits (N, people) for embeddings (N, 128) of the people of these numbers (N,)."""
        cosines = F.linear(F.normalize(embeddings), F.normalize(self.directions))
        return SCALE * (cosines - margin * F.one_hot(people, len(self.directions)))


class People:
    """Views of people, of each as many as `people.py` made; grows as shards appear."""

    def __init__(self, options: Options) -> None:
        """Wait for the first shards; the very first is held out."""
        self.options = options
        self.reader = ShardReader(options, PEOPLE, 1_000_000)
        self.unseen, _ = self.reader.wait()
        self.shards = [self.reader.wait()[0]]
        self.most = (shards(options, PEOPLE) - 1) * len(self.unseen)
        self.rng = np.random.default_rng([options.seed, 91])

    def refresh(self) -> None:
        """Load the shards that have been made since."""
        self.shards += [views for views, _ in self.reader.new()]

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Views (N, 3, 112, 112) in 0 to 1, two of each person, some mirrored; the people's numbers."""
        size = len(self.shards[0])
        numbers = np.repeat(self.rng.integers(len(self.shards) * size, size=-(-count // 2)), 2)[:count]
        views = []
        for number in numbers:
            view = self.shards[number // size][number % size][self.rng.integers(self.shards[0].shape[1])]
            views.append(view[:, ::-1] if self.rng.random() < 0.5 else view)
        return to_tensor(np.stack(views)) / 255, torch.from_numpy(numbers)


def to_tensor(views: Image) -> Tensor:
    """Views (N, 112, 112, 3) as floats (N, 3, 112, 112), 0 to 255."""
    return torch.from_numpy(views).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)


def degraded(views: Tensor) -> Tensor:
    """What bad cameras and files leave of the views, in groups; some stay as they are, some become gray.

    Blur and scale are those of `degrade_photo`, in the pixels of a view, and go further.
    """
    groups = []
    for part in views.split(max(1, len(views) // 8)):
        x = part
        if torch.rand(()) < DEGRADED_SHARE:
            side = round(SIDE / uniform(1, 4.5))
            x = resize(blur(x, uniform(0, 1.6)), side, side)
            x = resize(jpeg(add_noise(x, 0.08), 30, 95), SIDE, SIDE)
        groups.append(x)
    x = torch.cat(groups)
    gray = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(x)
    chosen = torch.rand(len(x), 1, 1, 1) < GRAY_SHARE
    tint = 1 + 0.06 * torch.randn(len(x), 3, 1, 1)
    return (torch.where(chosen, gray, x * tint).clamp(0, 1)).contiguous(memory_format=torch.channels_last)


def train(options: Options) -> None:
    """Run the stage."""
    prepare_torch(options)
    people = People(options)
    network = IdentityNet().to(options.device).to(memory_format=torch.channels_last)
    head = MarginHead(people.most).to(options.device)
    loop = Loop(options, RECIPE, {"identity": network, "head": head})
    for progress in loop.steps():
        if loop.step % 50 == 0:
            people.refresh()
        views, numbers = people.batch(options.scaled(options.batch, 4))
        with torch.no_grad():
            views = 255 * degraded(views)
        numbers = numbers.to(options.device)
        logits = head(network(views.to(options.device)), numbers, MARGIN * min(1, progress / MARGIN_GROWS))
        right = (logits.argmax(1) == numbers).float().mean()
        loop.update(F.cross_entropy(logits, numbers), right=right, people=float(len(people.shards)))
    loop.finish()
    torch.manual_seed(1)
    found = measure(network, people.unseen)
    loop.export(None, **found)
    print(f"identity: {found}", flush=True)


@torch.no_grad()
def measure(network: IdentityNet, views: Image) -> dict[str, float]:
    """The equal error rate among degraded views of people (P, V, 112, 112, 3) that were not trained on."""
    count, each = views.shape[:2]
    flat = degraded(to_tensor(views.reshape(-1, *views.shape[2:])) / 255) * 255
    device = next(network.parameters()).device
    embeddings = torch.cat([F.normalize(network(part.to(device))) for part in flat.split(100)])
    cosines = (embeddings @ embeddings.T).cpu().numpy()
    owners = np.repeat(np.arange(count), each)
    same, other = owners[:, None] == owners[None], np.triu(np.ones_like(cosines, bool), 1)
    rate, threshold = equal_error_rate(cosines[same & other], cosines[~same & other])
    return {"equal_error_rate": round(rate, 4), "threshold": round(threshold, 3)}


def equal_error_rate(same: NDArray[np.float32], others: NDArray[np.float32]) -> tuple[float, float]:
    """The rate at which as many of the same people fall below a threshold as of others do not, and it."""
    candidates = np.sort(np.concatenate([same, others]))
    missed = np.searchsorted(np.sort(same), candidates) / len(same)
    passed = 1 - np.searchsorted(np.sort(others), candidates) / len(others)
    best = int(np.argmin(np.abs(missed - passed)))
    return float((missed[best] + passed[best]) / 2), float(candidates[best])


def load_identity(options: Options) -> IdentityNet:
    """The trained network of the runs."""
    network = IdentityNet()
    load_export(options.runs / "identity" / EXPORT, "identity", network)
    return network.eval().requires_grad_(False)


if __name__ == "__main__":
    train(parse_options("Trains the network that tells people apart."))
