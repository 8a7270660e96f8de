"""`atelier-restorer` directed: a plan for single faces, several fidelities, crops; here and at a service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.integration.restorer_server import photo, png, serve
from tests.integration.test_restorer_command import Here, Ran, here, there

__all__ = ["here"]


def read(path: Path | str) -> np.ndarray:
    with Image.open(path) as opened:
        return np.array(opened)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "wedding.png"
    path.write_bytes(png(photo(1200, 640)))
    return path


def test_a_plan_is_what_detect_printed_with_orders(
    here: Here, seeing: Path, source: Path, tmp_path: Path
) -> None:
    found = here("detect", source, "--model-set", seeing)
    plan = json.loads(found.out)
    assert len(plan["faces"]) >= 3
    plan["faces"][0]["skip"] = True
    plan["faces"][1]["fidelity"] = 0.9
    plan["faces"][2]["index"] = 2  # as a gateway tells it
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    ran = here(
        *("restore", source, tmp_path / "out.png", "--model-set", seeing),
        *("--faces", tmp_path / "plan.json", "--save-crops", tmp_path / "crops", "--max-faces", 2),
    )
    assert ran.code == 0, ran.err
    [told] = ran.answers
    faces = told["faces"]
    assert [face["reason"] for face in faces[:4]] == ["skipped", None, None, "over_limit"]
    assert [face["fidelity"] for face in faces[1:3]] == [0.9, 0.6]
    assert [face["box"] for face in faces] == [face["box"] for face in plan["faces"]]
    assert "detect" not in [stage["stage"] for stage in told["stages"]]
    assert [crop["face"] for crop in told["crops"]] == [1, 2]
    for crop in told["crops"]:
        before, after = read(crop["before"]), read(crop["after"])
        assert before.shape == after.shape == (512, 512, 3) and (before != after).any()
    assert (read(told["output"]) != read(source)).any()


async def test_a_comparison_here_and_at_a_service(seeing: Path, source: Path, tmp_path: Path) -> None:
    values = ("--fidelities", 0, 0.5, 1, "--max-faces", 1)
    async with serve(seeing) as client:
        ran = await there(client, "compare", source, tmp_path / "sweep", *values)
    assert ran.code == 0, ran.err
    assert [told["fidelity"] for told in ran.answers] == [0.0, 0.5, 1.0]
    names = [f"wedding_w{w}.png" for w in ("0", "0.5", "1")]
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == set(names)
    pictures = [read(tmp_path / "sweep" / name) for name in names]
    assert (pictures[0] != pictures[2]).any()
    for told, picture in zip(ran.answers, pictures, strict=True):
        np.testing.assert_array_equal(read(told["output"]), picture)
        assert [face["fidelity"] for face in told["faces"] if face["restored"]] == [told["fidelity"]]


def test_a_comparison_in_this_process(here: Here, seeing: Path, source: Path, tmp_path: Path) -> None:
    ran = here("compare", source, tmp_path / "sweep", "--model-set", seeing, "--max-faces", 1)
    assert ran.code == 0, ran.err
    assert [told["fidelity"] for told in ran.answers] == [0.0, 0.3, 0.6, 1.0]


BAD_PLANS: dict[str, Any] = {
    "a list of faces": {"face": []},
    "list of faces is empty": {"faces": []},
    "face 0 lacks landmarks": {"faces": [{"box": [0, 0, 9, 9]}]},
    "face 0 has unknown fields: blur": {
        "faces": [{"box": [0, 0, 9, 9], "landmarks": [[1, 1]] * 5, "blur": 1}]
    },
    "face 0: box must be 4 numbers": {"faces": [{"box": [0, 0, "9", 9], "landmarks": [[1, 1]] * 5}]},
    "face 0: landmarks must be 5": {"faces": [{"box": [0, 0, 9, 9], "landmarks": [[1, 1]] * 4}]},
    "face 0: skip must be": {"faces": [{"box": [0, 0, 9, 9], "landmarks": [[1, 1]] * 5, "skip": 1}]},
    "faces[0].fidelity": {"faces": [{"box": [0, 0, 9, 9], "landmarks": [[1, 1]] * 5, "fidelity": 2}]},
}


@pytest.mark.parametrize("said", BAD_PLANS)
def test_a_plan_that_cannot_be_meant_is_told(here: Here, source: Path, tmp_path: Path, said: str) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(BAD_PLANS[said]))
    ran = here("restore", source, tmp_path / "out.png", "--faces", tmp_path / "plan.json")
    assert ran.code == 2 and not (tmp_path / "out.png").exists()
    assert said.replace("faces[0].", "") in ran.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--fidelities", 0, 2], "between 0.0 and 1.0"),
        (["--fidelities", *[0.1] * 2], "different"),
        (["--fidelities", *[n / 10 for n in range(9)]], "up to 8"),
    ],
)
def test_fidelities_that_cannot_be_compared_are_told(
    here: Here, source: Path, tmp_path: Path, flags: list[Any], said: str
) -> None:
    ran: Ran = here("compare", source, tmp_path / "sweep", *flags)
    assert ran.code == 2 and said in ran.err and not (tmp_path / "sweep").exists()
