"""What the three stages of the small CodeFormer share: sizes, aligned faces and their degradation.

The stages are those of the paper (Zhou et al. 2022, arXiv:2206.11253, section 3): `codebook.py` learns the
codebook of face parts, `codes.py` learns to predict it from degraded faces, `fusion.py` learns to blend in
what the input still shows.
"""

import torch
from torch import Tensor, nn

from atelier_restorer.nets.codeformer import CodeFormer
from training.data import (
    FACE,
    FACES,
    PAIRS,
    TEMPLATE,
    PictureStore,
    ShardReader,
    face_weights,
    is_there,
)
from training.degrade import degrade_face
from training.detector import LatestAutoencoder
from training.options import Options

PAIRS_SHARE = 0.35  # of the batches, if there are any
_BOX = (120.0, 110.0, 392.0, 470.0)  # roughly where the face is in an aligned image


class FaceStore:
    """Aligned clean faces on the device, and degraded versions of them."""

    def __init__(self, options: Options) -> None:
        """Wait for the first shards of faces."""
        self.options = options
        self.store = PictureStore(options, FACES, least=options.scaled(400, 4), most=options.scaled(5000, 4))
        boxes = torch.tensor(_BOX, device=options.device).view(1, 1, 4)
        landmarks = torch.from_numpy(TEMPLATE).to(options.device).view(1, 1, 5, 2)
        self.weights = face_weights(boxes, landmarks, FACE)
        self.latest = LatestAutoencoder(options)
        self.smear = self.latest.smear()
        self.pairs: Tensor | None = None
        if is_there(options, PAIRS):
            _held_out, *shards = (
                torch.from_numpy(pairs) for pairs, _ in ShardReader(options, PAIRS, 10_000).new()
            )
            self.pairs = torch.cat(shards)

    def refresh(self) -> None:
        """Load new shards, and the autoencoder once it is trained."""
        self.store.refresh()
        self.smear = self.latest.smear()

    def clean(self, count: int) -> Tensor:
        """Random faces (N, 3, 512, 512) in [-1, 1], half of the batches mirrored."""
        faces = self.store.as_float(self.store.sample(count)[0])
        return faces.flip(3) if torch.rand(()) < 0.5 else faces

    def training_pairs(self, count: int) -> tuple[Tensor, Tensor]:
        """Inputs to restore and their clean targets, both (N, 3, 512, 512) in [-1, 1].

        The inputs are degraded drawings and, in some batches, drawings redrawn by the generator (see
        redrawn.py).
        """
        if self.pairs is None or not len(self.pairs) or torch.rand(()) > PAIRS_SHARE:
            clean = self.clean(count)
            return self.degraded(clean), clean
        chosen = self.pairs[torch.randint(len(self.pairs), (count,))]
        inputs, clean = (self.store.as_float(chosen[:, side]) for side in (0, 1))
        return (inputs.flip(3), clean.flip(3)) if torch.rand(()) < 0.5 else (inputs, clean)

    def degraded(self, clean: Tensor) -> Tensor:
        """The same faces degraded, except for a few, in [-1, 1]."""
        groups = [
            degrade_face(part / 2 + 0.5, self.smear) * 2 - 1 for part in clean.split(max(1, len(clean) // 4))
        ]
        degraded = torch.cat(groups)
        kept = torch.rand(len(clean), 1, 1, 1, device=clean.device) < 0.04
        return torch.where(kept, clean, degraded).contiguous(memory_format=torch.channels_last)

    def unseen(self, count: int) -> Tensor:
        """Held-out faces in [-1, 1]."""
        return self.store.unseen(count)


def build_codeformer(options: Options) -> CodeFormer:
    """The untrained network on the device."""
    network = CodeFormer(options.profile.codeformer)
    nn.init.normal_(network.position_emb, std=0.02)
    return network.to(options.device).to(memory_format=torch.channels_last)


def nearest_codes(latent: Tensor, codebook: Tensor) -> Tensor:
    """Index (N, L, L) of the nearest row of (K, D) for each position of (N, D, L, L)."""
    flat = latent.float().permute(0, 2, 3, 1).reshape(-1, latent.shape[1])
    with torch.autocast(latent.device.type, enabled=False):  # neighbors are closer than bfloat16 can resolve
        distance = codebook.square().sum(1) - 2 * flat @ codebook.T
    return distance.argmin(1).view(latent.shape[0], *latent.shape[2:])
