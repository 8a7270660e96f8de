"""Scores CodeFormer on unseen faces, spoiled as photographs and as generated pictures are."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer
from training.attributes import OF_A_FACE, Judge, face_view, judge
from training.data import draw_face
from training.degrade import spoil_face
from training.detector import autoencoder_smear
from training.figures import Figure
from training.studio import Studio

Picture = NDArray[np.uint8]
FIDELITY = 0.6
SWEEP = (0.0, 0.25, 0.5, 0.6, 0.75, 1.0)


@dataclass(frozen=True)
class Gain:
    """How much nearer to the clean face the restored one is than the ruined one."""

    psnr: float
    ssim: float

    @classmethod
    def of(cls, clean: Picture, spoiled: Picture, restored: Picture) -> "Gain":
        """Compares three pictures (H, W, 3)."""
        return cls(
            _psnr(clean, restored) - _psnr(clean, spoiled), _ssim(clean, restored) - _ssim(clean, spoiled)
        )


def kept(network: Judge, before: list[Picture], after: list[Picture]) -> tuple[int, int, int]:
    """Answers of the judge that are the same on views before and after, answers in all, and the number of
    faces that lost none.
    """
    pairs = zip(judge(network, before), judge(network, after), strict=True)
    same = [[one[name] == other[name] for name in OF_A_FACE] for one, other in pairs]
    return sum(map(sum, same)), sum(map(len, same)), sum(map(all, same))


@torch.inference_mode()
def score_restorer(studio: Studio, network: Judge, seed: int, count: int) -> list[Figure]:
    """`count` ruined faces at w = 0.6, and every fourth of them at every w of the sweep."""
    restorer, codeformer = studio.restorer, studio.codeformer
    if restorer is None or codeformer is None:
        return []
    rng = np.random.default_rng([seed, 4])
    torch.manual_seed(seed)
    smear = autoencoder_smear(studio.models.text_to_image.vae)
    cleans, results, codes_used, shuffled = [], [], set(), []
    gains: dict[float, list[Gain]] = {fidelity: [] for fidelity in SWEEP}
    swept: dict[float, tuple[list[Picture], list[Picture]]] = {fidelity: ([], []) for fidelity in SWEEP}
    natural_faces = 0
    for number in range(count):
        clean = draw_face(rng)
        spoiled = _to_picture(spoil_face(_to_tensor(clean), smear))
        asked = SWEEP if number % 4 == 0 else (FIDELITY,)
        restored = dict(zip(asked, _restored(restorer, spoiled, asked), strict=True))
        for fidelity, picture in restored.items():
            gains[fidelity].append(Gain.of(clean, spoiled, picture))
            if number % 4 == 0:
                swept[fidelity][0].append(face_view(clean))
                swept[fidelity][1].append(face_view(picture))
        cleans.append(face_view(clean))
        results.append(face_view(restored[FIDELITY]))
        if number % 4 == 0:
            natural_faces += bool(studio.faces(restored[0.0]))
            used, mixed = _shuffle(codeformer, spoiled)
            codes_used |= used
            shuffled.append(_psnr(clean, restored[0.0]) - _psnr(clean, mixed))
    same, asked_in_all, whole = kept(network, cleans, results)
    at = gains[FIDELITY]
    figures = [
        Figure.number(
            "restorer: PSNR gained at w = 0.6", _mean([g.psnr for g in at]), " dB", 3.0, total=count
        ),
        Figure.number("restorer: SSIM gained at w = 0.6", _mean([g.ssim for g in at]), "", 0.1, total=count),
        Figure.share("restorer: attributes kept at w = 0.6", same, asked_in_all, least=0.95),
        Figure.share("restorer: faces with all attributes kept", whole, count),
        Figure.share("restorer: faces still found at w = 0", natural_faces, len(shuffled)),
        Figure.number("restorer: codes in use", len(codes_used), total=1),
        Figure.number("restorer: PSNR lost by shuffled codes", _mean(shuffled), " dB", total=len(shuffled)),
    ]
    for fidelity in SWEEP:
        # The sweep's own faces: the same ones at every w.
        part = at[::4] if fidelity == FIDELITY else gains[fidelity]
        same, asked_in_all, _ = kept(network, *swept[fidelity])
        psnr, ssim = _mean([gain.psnr for gain in part]), _mean([gain.ssim for gain in part])
        share = same / max(1, asked_in_all)
        told = f"{psnr:+.2f} dB, {ssim:+.3f}, {share:.1%} on {len(part)}"
        figures.append(Figure(f"sweep, w = {fidelity:g}: PSNR, SSIM, attributes kept", psnr, told, "", None))
    return figures


def _restored(restorer: FaceRestorer, spoiled: Picture, fidelities: tuple[float, ...]) -> list[Picture]:
    pictures = restorer.restore(spoiled[None], [(0, fidelity) for fidelity in fidelities])
    if not all(isinstance(picture, np.ndarray) for picture in pictures):
        raise ValueError("CodeFormer made non-finite values")
    return [np.asarray(picture, np.uint8) for picture in pictures]


def _shuffle(network: CodeFormer, spoiled: Picture) -> tuple[set[int], Picture]:
    """The codes that a face is read as, and the face that the same codes make in a random order."""
    _, latent = network.encode(_to_tensor(spoiled) * 2 - 1)
    side = network.config.latent_size
    codes = network.predict_codes(latent).argmax(2)
    mixed = codes[:, torch.randperm(codes.shape[1])].unflatten(1, (side, side))
    drawn = network.decode(network.lookup(mixed), {}, 0.0)
    return set(codes.flatten().tolist()), _to_picture(drawn.clamp(-1, 1) / 2 + 0.5)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _to_tensor(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def _to_picture(x: torch.Tensor) -> Picture:
    return np.asarray((x[0].permute(1, 2, 0) * 255).round().clamp(0, 255).numpy(), np.uint8)


def _psnr(wanted: Picture, given: Picture) -> float:
    return float(peak_signal_noise_ratio(wanted, given, data_range=255))


def _ssim(wanted: Picture, given: Picture) -> float:
    return float(structural_similarity(wanted, given, channel_axis=2, data_range=255))
