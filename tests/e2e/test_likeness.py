"""Who a face shows, by the built-in set: over HTTP through the real processes, and its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from atelier_restorer.models import load_models
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.weights import ModelSet
from tests.processes import Atelier
from training.score_identity import drawn_faces, score, trials_of

RUINED = (Path(__file__).parents[2] / "docs" / "ruined.png").read_bytes()
LIMITS = json.loads((ModelSet.open("demo").folder / "manifest.json").read_text())["identity"]


def restored(atelier: Atelier, path: str = "restore", **fields: str) -> Any:
    response = httpx.post(f"{atelier.url}/{path}", files={"image": RUINED}, data=fields, timeout=120)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_restored_face_is_the_same_person_and_says_so(atelier: Atelier) -> None:
    [face] = restored(atelier)["faces"]
    assert face["restored"] and LIMITS["min_similarity"] < face["identity_similarity"] < 1
    assert face["identity_unknown"] is False and face["fidelity"] == 0.6
    [guarded] = restored(atelier, identity="guard")["faces"]
    assert guarded["restored"] and guarded["fidelity_requested"] is None
    [off] = restored(atelier, identity="off")["faces"]
    assert off["restored"] and off["identity_similarity"] is None


def test_a_face_that_no_fidelity_keeps_is_left_as_it_was(atelier: Atelier) -> None:
    [face] = restored(atelier, identity="guard", min_similarity="0.9999")["faces"]
    assert not face["restored"] and face["reason"] == "identity_changed"
    assert 0.9 < face["identity_similarity"] < 0.9999


def test_every_fidelity_of_a_comparison_has_its_likeness(atelier: Atelier) -> None:
    images = restored(atelier, "compare", fidelities="[0, 0.5, 1]")["results"]
    likeness = [image["faces"][0]["identity_similarity"] for image in images]
    assert len(set(likeness)) == 3 and all(0 < each < 1 for each in likeness)
    assert likeness[2] > likeness[0], "w = 1 is closest to the photo"


@pytest.mark.slow
def test_the_guard_lets_no_swapped_face_through_and_stops_no_good_one() -> None:
    """On few people; `training.score_identity` does it on many."""
    roles = (NetworkRole.FACE_RESTORER, NetworkRole.IDENTITY)
    models = load_models(RestorerSettings(dtype="float32"), roles)
    trials = list(trials_of(drawn_faces(range(2000, 2041), seed=3), models))
    assert len(trials) == 40
    assert all(trial.certainty > LIMITS["min_certainty"] > 0 for trial in trials)
    assert sum(trial.ruin_certainty >= LIMITS["min_certainty"] for trial in trials) <= 4
    missed = [figure for figure in score(trials, LIMITS["min_similarity"]) if figure.reached is False]
    assert not missed, missed
