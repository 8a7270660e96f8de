"""Scores an identity network on restored faces, and measures the guard's limit for it.

`python -m training.score_identity --network-of .runs --calibration .runs/identity/calibration.json` on drawn
people that the demo set's networks have never seen; `--set /models/sdxl --photos DIR` on your own
photographs, of which each shows other people.

Each face is restored, and once more with the codes of another person planted into it: at w = 0 the result is
that other person, whom the guard must not let through. A network without a fidelity has no codes to plant;
there the other person is another one's restored face. The limits are measured on the first third of the
faces, and what they do is counted on the others.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from atelier_restorer.align import cut_crop, face_to_crop
from atelier_restorer.batching import FaceNetwork
from atelier_restorer.identity import Embedding, FaceIdentifier
from atelier_restorer.likeness import LADDER_STEPS, Likeness
from atelier_restorer.models import Models, load_models
from atelier_restorer.nets.codeformer import CodeFormer, match_statistics
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import defaults, images
from atelier_runtime.errors import AtelierError
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.torch_setup import prepare_torch
from training.degrade import degrade_face
from training.figures import Figure, table
from training.identity import IdentityNet, equal_error_rate
from training.identity_onnx import write_onnx
from training.loop import EXPORT, load_export
from training.people import UNSEEN, drawn_crop, person_of

Image = NDArray[np.uint8]
CALIBRATED_SHARE = 1 / 3
MOST_ERRORS, MOST_SWAPPED, MOST_STOPPED = 0.05, 0.02, 0.05
_ROLES = (NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER, NetworkRole.IDENTITY)
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_SURE = 0.8  # no limit is as high: what reaches it at the default w is not decoded again
_HALF_SWAPPED_EVERY = 4
_RUINED_CROP_PX = 8  # of an aligned crop of 512 px, of which `RUINED_SIDE` are in the crop for recognition
_RUINS_TOLD = 0.95
_TASK = 25  # faces that one process scores between reports
_LEAST_FACES = 30  # the first has no one before it, and of the others a third is for measuring the limits
_LEAST_EYES_PX = 20.0  # a face in a photograph that is smaller has too little to be mistaken for anybody


@dataclass(frozen=True)
class Trial:
    """One face: as it came, restored at each step of the guard's ladder, and as somebody else."""

    before: Embedding
    certainty: float
    restored: tuple[Embedding, ...]
    """At least at the default w; at the other steps too if that is below `_SURE`."""
    swapped: Embedding
    """With another person's codes at w = 0."""
    half_swapped: Embedding | None
    """With another person's codes at the default w; of some faces only."""
    ruin_certainty: float
    """Of the face after it was ruined."""

    @property
    def own(self) -> float:
        """Cosine of the face and its restoration at the default w."""
        return self.before.similarity(self.restored[0])


def drawn_faces(numbers: Iterable[int], seed: int) -> Iterator[Image]:
    """Degraded aligned faces (512, 512, 3) of people that nothing was trained on, by their numbers."""
    for number in numbers:
        person, rng = person_of(seed, UNSEEN + number)
        torch.manual_seed(UNSEEN + number)
        x = torch.from_numpy(drawn_crop(rng, person)).permute(2, 0, 1)[None].float() / 255
        yield _to_image(degrade_face(x, None) * 2 - 1)


def photographs(folder: Path) -> list[Path]:
    """The images in a folder and its folders; what is hidden is left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not _is_hidden(path.relative_to(folder))
    ]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def photographed_faces(paths: Iterable[Path], models: Models, unreadable: dict[Path, str]) -> Iterator[Image]:
    """The largest face of each photograph, aligned (512, 512, 3).

    A file that cannot be read is left out, and put into `unreadable` with the reason.
    """
    assert models.detector is not None
    for path in paths:
        try:
            rgb = images.decode(path.read_bytes(), max_pixels=defaults.MAX_PIXELS).eight_bit()
        except (AtelierError, OSError) as error:
            unreadable[path] = (error.strerror if isinstance(error, OSError) else None) or str(error)
            continue
        found = models.detector.detect(
            [rgb], size_px=defaults.DETECT_SIZE_PX, min_confidence=defaults.MIN_CONFIDENCE
        )[0]
        large = [face for face in found if face.eye_distance_px >= _LEAST_EYES_PX]
        if large:
            face = max(large, key=lambda each: each.size_px)
            yield cut_crop(rgb, face_to_crop(face.landmarks))


def trials_of(faces: Iterator[Image], models: Models) -> Iterator[Trial]:
    """Restore each face, also as the one before it; there is no trial of the first one."""
    assert models.codeformer is not None and models.identifier is not None, "checked before"
    network = models.codeformer.network
    if isinstance(network, CodeFormer):
        return _with_fidelities(faces, network, models.identifier)
    return _with_visibilities(faces, models.codeformer, models.identifier)


@torch.inference_mode()
def _with_fidelities(
    faces: Iterator[Image], network: CodeFormer, identifier: FaceIdentifier
) -> Iterator[Trial]:
    """The codes of the face before are planted into each."""
    first, *others = Likeness(identifier, 0.0, 0.0).fidelities(defaults.FIDELITY)
    assert len(others) == LADDER_STEPS - 1
    side, device = network.config.latent_size, network.position_emb.device
    planted: torch.Tensor | None = None
    for number, face in enumerate(faces):
        x = torch.from_numpy(face).permute(2, 0, 1)[None].float().to(device) / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        features, latent = network.encode(x)
        codes = network.predict_codes(latent).argmax(2).unflatten(1, (side, side))
        other, planted = planted, codes
        if other is None:
            continue
        before = identifier.embed(face)
        decoded = partial(_decoded, network, identifier, features, latent)
        restored = [decoded(codes, first)]
        if before.similarity(restored[0]) < _SURE:
            restored += [decoded(codes, weight) for weight in others]
        yield Trial(
            before,
            identifier.certainty(face, before),
            tuple(restored),
            decoded(other, 0.0),
            decoded(other, first) if number % _HALF_SWAPPED_EVERY == 0 else None,
            _ruin_certainty(face, identifier),
        )


def _with_visibilities(
    faces: Iterator[Image], network: FaceNetwork, identifier: FaceIdentifier
) -> Iterator[Trial]:
    """Of a network that has one answer for each face; the swapped one is the restored face before."""
    previous: Embedding | None = None
    for face in faces:
        [crop] = network.restore(face[None], [(0, defaults.FIDELITY)], max_batch=1)
        if isinstance(crop, SkipReason):
            continue
        before, restored = identifier.embed(face), [identifier.embed(crop)]
        other, previous = previous, restored[0]
        if other is None:
            continue
        if before.similarity(restored[0]) < _SURE:
            for number in range(1, LADDER_STEPS):
                share = 1 - number / LADDER_STEPS
                blended = cv2.addWeighted(crop, share, face, 1 - share, 0)
                restored.append(identifier.embed(np.asarray(blended, np.uint8)))
        certainty = identifier.certainty(face, before)
        yield Trial(before, certainty, tuple(restored), other, None, _ruin_certainty(face, identifier))


def _ruin_certainty(face: Image, identifier: FaceIdentifier) -> float:
    """The certainty of a face of which only so many pixels are left that it could be anybody's."""
    small = cv2.resize(face, (_RUINED_CROP_PX, _RUINED_CROP_PX), interpolation=cv2.INTER_AREA)
    ruin = np.asarray(cv2.resize(small, face.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    return identifier.certainty(ruin, identifier.embed(ruin))


def _decoded(
    network: CodeFormer,
    identifier: FaceIdentifier,
    features: dict[int, torch.Tensor],
    latent: torch.Tensor,
    codes: torch.Tensor,
    weight: float,
) -> Embedding:
    """Who a face with these codes shows, restored at a w."""
    quantized = match_statistics(network.lookup(codes), latent)
    return identifier.embed(_to_image(network.decode(quantized, features, weight)))


def limit_of(trials: list[Trial]) -> float:
    """The guard's limit: half way between most of the swapped faces and most of the good ones."""
    swapped = np.quantile([trial.before.similarity(trial.swapped) for trial in trials], 1 - MOST_SWAPPED)
    good = np.quantile([trial.own for trial in trials], MOST_STOPPED)
    return round(float((swapped + good) / 2), 3)


def min_certainty_of(trials: list[Trial]) -> float:
    """The certainty that most ruined faces do not reach: below it a face is too ruined to tell."""
    return round(float(np.quantile([trial.ruin_certainty for trial in trials], _RUINS_TOLD)), 3)


def score(trials: list[Trial], limit: float) -> list[Figure]:
    """What the network and a guard with this limit do on these faces."""
    own = np.array([trial.own for trial in trials], np.float32)
    following = trials[1:] + trials[:1]
    others = np.array(
        [one.before.similarity(two.restored[0]) for one, two in zip(trials, following, strict=True)],
        np.float32,
    )
    rate, threshold = equal_error_rate(own, others)
    count = len(trials)
    passed = sum(trial.before.similarity(trial.swapped) >= limit for trial in trials)
    assert limit < _SURE, "above it, the other steps of the ladder are not known"
    half = [trial.before.similarity(t) >= limit for trial in trials if (t := trial.half_swapped) is not None]
    raised = sum(trial.own < limit for trial in trials)
    stopped = sum(all(trial.before.similarity(e) < limit for e in trial.restored) for trial in trials)
    return [
        Figure.number("identity: equal error rate", rate, at_most=MOST_ERRORS, total=count),
        Figure.number("identity: cosine at the equal error rate", threshold),
        Figure.number("identity: cosine of own faces, mean", float(own.mean()), total=count),
        Figure.number("identity: cosine of others' faces, mean", float(others.mean()), total=count),
        Figure.number("guard: limit", limit),
        Figure.share("guard: swapped faces (w = 0) let through", passed, count, at_most=MOST_SWAPPED),
        *(
            [Figure.share("guard: swapped codes at the default w let through", sum(half), len(half))]
            * bool(half)
        ),
        Figure.share("guard: good restorations left as they were", stopped, count, at_most=MOST_STOPPED),
        Figure.share("guard: good restorations below the limit at the default w", raised, count),
    ]


class _Worker:
    """What a process loads once, and scores faces with."""

    models: Models

    @classmethod
    def start(cls, settings: RestorerSettings) -> None:
        """Load the networks."""
        prepare_torch()
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        cls.models = load_models(settings, _ROLES)

    @classmethod
    def score(cls, seed: int, task: Sequence[int] | Sequence[Path]) -> tuple[list[Trial], dict[Path, str]]:
        """The trials of some faces, and why files cannot be read; there is no trial of the first face."""
        unreadable: dict[Path, str] = {}
        photos = [each for each in task if isinstance(each, Path)]
        numbers = [each for each in task if isinstance(each, int)]
        faces = photographed_faces(photos, cls.models, unreadable) if photos else drawn_faces(numbers, seed)
        return list(trials_of(faces, cls.models)), unreadable


def all_trials(
    settings: RestorerSettings, faces: Sequence[int] | Sequence[Path], seed: int, jobs: int
) -> list[Trial]:
    """The trials of faces, each with the codes of the one before it, in `jobs` processes.

    Photographs that cannot be read are named on standard error.
    """
    tasks = [faces[max(0, start - 1) : start + _TASK] for start in range(0, len(faces), _TASK)]
    trials: list[Trial] = []
    named: set[Path] = set()  # the last of a task is the first of the next one too
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _Worker.start, (settings,)) as pool:
        for done, unreadable in pool.map(partial(_Worker.score, seed), tasks):
            trials += done
            for path in sorted(unreadable.keys() - named):
                print(f"{path}: left out: {unreadable[path]}", file=sys.stderr, flush=True)
            named |= unreadable.keys()
            print(f"{len(trials)} faces of {len(faces)}", file=sys.stderr, flush=True)
    return trials


def _to_image(x: torch.Tensor) -> Image:
    """An image (1, 3, H, W) in [-1, 1] as (H, W, 3)."""
    levels = ((x[0].float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Scores an identity network and measures the guard's limit.")
    parser.add_argument("--set", default="demo", help="'demo' or the folder of a model set")
    parser.add_argument("--network", default="", help="a network's file, if not the set's identity network")
    parser.add_argument("--photos", type=Path, help="a folder of photographs; default: drawn people")
    parser.add_argument("--count", type=int, default=750, help="drawn people")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with its own networks")
    parser.add_argument(
        "--calibration",
        type=Path,
        help="where to put the limit for the packager: .runs/identity/calibration.json",
    )
    parser.add_argument(
        "--network-of", type=Path, metavar="RUNS", help="score the trained network of these runs"
    )
    parser.add_argument("--json", type=Path, help="where to put the figures as JSON")
    return parser.parse_args()


def faces_of(photos: Path | None, count: int) -> Sequence[int] | Sequence[Path]:
    """The photographs in a folder, or the numbers of `count` drawn people.

    Raises `SystemExit` where there can never be enough of them.
    """
    if photos is None:
        faces: Sequence[int] | Sequence[Path] = range(count)
    elif not photos.is_dir():
        raise SystemExit(f"--photos {photos} is not a folder")
    elif not (faces := photographs(photos)):
        raise SystemExit(f"no photographs in {photos} ({', '.join(_SUFFIXES)})")
    if len(faces) < _LEAST_FACES:
        what = f"--count {count}" if photos is None else f"{photos}: {len(faces)} photographs"
        raise SystemExit(f"{what}: too few; at least {_LEAST_FACES} faces are needed")
    return faces


def main() -> int:
    """Run the command; return 1 if a target was missed."""
    given = parse()
    faces = faces_of(given.photos, given.count)
    with tempfile.TemporaryDirectory() as folder:
        file = given.network
        if given.network_of:
            network = IdentityNet()
            load_export(given.network_of / "identity" / EXPORT, "identity", network)
            file = str(Path(folder) / "identity.onnx")
            write_onnx(network.eval(), Path(file))
        settings = RestorerSettings(model_set=given.set, identity=file, dtype="float32")
        models = load_models(settings, _ROLES)
        if models.identifier is None or models.codeformer is None:
            raise SystemExit("the set needs an identity network (or --network FILE) and a face restorer")
        trials = all_trials(settings, faces, given.seed, given.jobs)
    if len(trials) < _LEAST_FACES - 1:
        raise SystemExit(
            f"{len(trials)} of {len(faces)} could be scored; at least {_LEAST_FACES} faces are needed"
        )
    min_certainty = min_certainty_of(trials)
    known = [trial for trial in trials if trial.certainty >= min_certainty]
    first = round(len(known) * CALIBRATED_SHARE)
    if first < 10:
        raise SystemExit(
            f"{len(known)} faces that are not too ruined are too few; at least {_LEAST_FACES} are needed"
        )
    limit = limit_of(known[:first])
    figures = [
        Figure.number("identity: certainty from which a face can be told", min_certainty),
        Figure.share("identity: faces too ruined to tell", len(trials) - len(known), len(trials)),
        *score(known[first:], limit),
    ]
    print(table(figures))
    measured = json.dumps({"min_similarity": limit, "min_certainty": min_certainty})
    if given.calibration:
        given.calibration.write_text(measured + "\n")
    print(f'\nIn the manifest: "identity": {measured}')
    if given.json:
        given.json.write_text(json.dumps({figure.name: figure.value for figure in figures}, indent=1) + "\n")
    return int(any(figure.reached is False for figure in figures))


if __name__ == "__main__":
    raise SystemExit(main())
