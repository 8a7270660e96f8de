"""Scores CodeFormer on held-out faces, degraded like photos and like generated images."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer
from training.attributes import FACE_ATTRIBUTES, Judge, classify, face_view
from training.data import draw_face
from training.degrade import degrade_face
from training.detector import autoencoder_smear
from training.figures import Figure
from training.studio import Studio

Image = NDArray[np.uint8]
FIDELITY = 0.6
SWEEP = (0.0, 0.25, 0.5, 0.6, 0.75, 1.0)


@dataclass(frozen=True)
class Gain:
    """How much closer to the clean face the restored one is than the degraded one."""

    psnr: float
    ssim: float

    @classmethod
    def of(cls, clean: Image, degraded: Image, restored: Image) -> "Gain":
        """Compare three images (H, W, 3)."""
        return cls(
            _psnr(clean, restored) - _psnr(clean, degraded), _ssim(clean, restored) - _ssim(clean, degraded)
        )


def count_kept(network: Judge, before: list[Image], after: list[Image]) -> tuple[int, int, int]:
    """Predictions of the judge that are the same before and after, all predictions, and unchanged faces."""
    pairs = zip(classify(network, before), classify(network, after), strict=True)
    same = [[one[name] == other[name] for name in FACE_ATTRIBUTES] for one, other in pairs]
    return sum(map(sum, same)), sum(map(len, same)), sum(map(all, same))


@torch.inference_mode()
def score_restorer(studio: Studio, network: Judge, seed: int, count: int) -> list[Figure]:
    """Score `count` degraded faces at w = 0.6, and every fourth of them at every w of the sweep."""
    restorer, codeformer = studio.restorer, studio.codeformer
    if restorer is None or codeformer is None:
        return []
    rng = np.random.default_rng([seed, 4])
    torch.manual_seed(seed)
    smear = autoencoder_smear(studio.models.text_to_image.vae)
    clean_views, restored_views, codes_used, shuffled = [], [], set(), []
    gains: dict[float, list[Gain]] = {fidelity: [] for fidelity in SWEEP}
    swept: dict[float, tuple[list[Image], list[Image]]] = {fidelity: ([], []) for fidelity in SWEEP}
    faces_found = 0
    for number in range(count):
        clean = draw_face(rng)
        degraded = _to_image(degrade_face(_to_tensor(clean), smear))
        fidelities = SWEEP if number % 4 == 0 else (FIDELITY,)
        restored = dict(zip(fidelities, _restored(restorer, degraded, fidelities), strict=True))
        for fidelity, image in restored.items():
            gains[fidelity].append(Gain.of(clean, degraded, image))
            if number % 4 == 0:
                swept[fidelity][0].append(face_view(clean))
                swept[fidelity][1].append(face_view(image))
        clean_views.append(face_view(clean))
        restored_views.append(face_view(restored[FIDELITY]))
        if number % 4 == 0:
            faces_found += bool(studio.faces(restored[0.0]))
            used, mixed = _shuffle(codeformer, degraded)
            codes_used |= used
            shuffled.append(_psnr(clean, restored[0.0]) - _psnr(clean, mixed))
    same, total, whole = count_kept(network, clean_views, restored_views)
    at = gains[FIDELITY]
    figures = [
        Figure.number(
            "restorer: PSNR gained at w = 0.6", _mean([g.psnr for g in at]), " dB", 3.0, total=count
        ),
        Figure.number("restorer: SSIM gained at w = 0.6", _mean([g.ssim for g in at]), "", 0.1, total=count),
        Figure.share("restorer: attributes kept at w = 0.6", same, total, at_least=0.95),
        Figure.share("restorer: faces with all attributes kept", whole, count),
        Figure.share("restorer: faces still found at w = 0", faces_found, len(shuffled)),
        Figure.number("restorer: codes in use", len(codes_used), total=1),
        Figure.number("restorer: PSNR lost by shuffled codes", _mean(shuffled), " dB", total=len(shuffled)),
    ]
    for fidelity in SWEEP:
        # Only the faces of the sweep: the same ones at every w.
        part = at[::4] if fidelity == FIDELITY else gains[fidelity]
        same, total, _ = count_kept(network, *swept[fidelity])
        psnr, ssim = _mean([gain.psnr for gain in part]), _mean([gain.ssim for gain in part])
        share = same / max(1, total)
        measured = f"{psnr:+.2f} dB, {ssim:+.3f}, {share:.1%} on {len(part)}"
        figures.append(
            Figure(f"sweep, w = {fidelity:g}: PSNR, SSIM, attributes kept", psnr, measured, "", None)
        )
    return figures


def _restored(restorer: FaceRestorer, degraded: Image, fidelities: tuple[float, ...]) -> list[Image]:
    images = restorer.restore(degraded[None], [(0, fidelity) for fidelity in fidelities])
    if not all(isinstance(image, np.ndarray) for image in images):
        raise ValueError("CodeFormer returned non-finite values")
    return [np.asarray(image, np.uint8) for image in images]


def _shuffle(network: CodeFormer, degraded: Image) -> tuple[set[int], Image]:
    """The codes predicted from a face, and the face decoded from them in random order."""
    _, latent = network.encode(_to_tensor(degraded) * 2 - 1)
    side = network.config.latent_size
    codes = network.predict_codes(latent).argmax(2)
    mixed = codes[:, torch.randperm(codes.shape[1])].unflatten(1, (side, side))
    decoded = network.decode(network.lookup(mixed), {}, 0.0)
    return set(codes.flatten().tolist()), _to_image(decoded.clamp(-1, 1) / 2 + 0.5)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _to_tensor(image: Image) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def _to_image(x: torch.Tensor) -> Image:
    return np.asarray((x[0].permute(1, 2, 0) * 255).round().clamp(0, 255).numpy(), np.uint8)


def _psnr(expected: Image, actual: Image) -> float:
    return float(peak_signal_noise_ratio(expected, actual, data_range=255))


def _ssim(expected: Image, actual: Image) -> float:
    return float(structural_similarity(expected, actual, channel_axis=2, data_range=255))
