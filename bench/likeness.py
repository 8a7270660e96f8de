"""What likeness and its guard cost: an image restored without them and with them, and the networks apart.

`python -m bench.likeness` restores the faces of an image with the model set of ATELIER_RESTORER_MODEL_SET and
its identity network (or `--identity FILE`), in this process. In each round the variants run in turn; ratios
are to `off` of the same round. "guard, kept" lets every face through at the fidelity asked for, "guard, never
kept" none at any: both decode the same. The networks: CodeFormer at its published shape with made-up weights,
for whom it is the same how often a face is decoded; the identity network on one crop. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from atelier_restorer.client import Client
from atelier_restorer.in_process import open_in_process
from atelier_restorer.likeness import LADDER_STEPS
from atelier_restorer.models import ROLES, FaceRestorer, load_models
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_restorer.request import IdentityMode, RestoreRequest
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import settings
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.torch_setup import prepare_torch
from bench.report import machine, print_json, spread

VARIANTS = {
    "off": RestoreRequest(identity=IdentityMode.OFF),
    "report": RestoreRequest(identity=IdentityMode.REPORT),
    "guard, kept": RestoreRequest(identity=IdentityMode.GUARD, min_similarity=-1.0),
    "guard, never kept": RestoreRequest(identity=IdentityMode.GUARD, min_similarity=1.0),
}


async def restorations(client: Client, file: bytes, rounds: int) -> dict[str, object]:
    """Return the seconds of each variant, and its ratio to `off`."""
    samples: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds + 1):  # the first does not count
        for name, request in VARIANTS.items():
            start = time.perf_counter()
            response = await client.restore(file, request)
            if number:
                samples[name].append(time.perf_counter() - start)
            assert response.report["face_restoration_applied"] is (name != "guard, never kept")
    return {
        **{
            name: {
                "s": spread(values),
                "ratio": spread([a / b for a, b in zip(values, samples["off"], strict=True)]),
            }
            for name, values in samples.items()
        },
    }


def networks(model_settings: RestorerSettings, rounds: int) -> dict[str, object]:
    """Return the seconds of CodeFormer with one decode and with a ladder's, and of the identity network."""
    network = CodeFormer()
    torch.nn.init.normal_(network.position_emb)
    models = load_models(model_settings, (NetworkRole.IDENTITY,))
    identifier = models.identifier
    assert identifier is not None, "checked when the image was restored"
    restorer = FaceRestorer(network, models.device, torch.float32)
    crop = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    before = identifier.embed(crop)
    ladder = np.linspace(0.5, 1, LADDER_STEPS)
    calls: dict[str, Callable[[], object]] = {
        "CodeFormer, one decode": lambda: restorer.restore(crop[None], [(0, 0.5)]),
        "CodeFormer, a ladder": lambda: restorer.restore(crop[None], [(0, float(w)) for w in ladder]),
        "embedding": lambda: identifier.embed(crop),
        "certainty": lambda: identifier.certainty(crop, before),
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                samples[name].append(time.perf_counter() - start)
    pairs = zip(samples["CodeFormer, a ladder"], samples["CodeFormer, one decode"], strict=True)
    return {
        **{name: {"s": spread(values)} for name, values in samples.items()},
        "a ladder to one decode": spread([a / b for a, b in pairs]),
    }


async def run(file: Path, rounds: int, network_rounds: int, identity: str) -> dict[str, object]:
    """Run all."""
    loaded = settings.load(RestorerSettings)
    if identity:
        loaded = loaded.model_copy(update={"identity": identity})
    async with open_in_process(loaded, ROLES, (NetworkRole.IDENTITY,)) as client:
        restored = await restorations(client, file.read_bytes(), rounds)
    return {"machine": machine(), "an image": restored, "networks": networks(loaded, network_rounds)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path, default=Path("docs/ruined.png"))
    parser.add_argument("--identity", default="", help="the identity network, if not the set's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--network-rounds", type=int, default=2)
    given = parser.parse_args()
    prepare_torch()
    print_json(asyncio.run(run(given.photo, given.rounds, given.network_rounds, given.identity)))


if __name__ == "__main__":
    main()
