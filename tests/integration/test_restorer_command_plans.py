"""`atelier-restorer` with plans for single faces, comparisons and crops; here and at a service."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.restorer_command import CommandResult, RunHere, pixels_of, run_at_service
from tests.integration.restorer_server import Client, photo, png


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "wedding.png"
    path.write_bytes(png(photo(1200, 640)))
    return path


def test_a_plan_is_the_output_of_detect_with_edits(
    run_here: RunHere, seeing: Path, source: Path, tmp_path: Path
) -> None:
    found = run_here("detect", source, "--model-set", seeing)
    plan = json.loads(found.out)
    assert len(plan["faces"]) >= 3
    plan["faces"][0]["skip"] = True
    plan["faces"][1]["fidelity"] = 0.9
    plan["faces"][2]["index"] = 2  # as in the response of POST /detect
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    ran = run_here(
        *("restore", source, tmp_path / "out.png", "--model-set", seeing),
        *("--faces", tmp_path / "plan.json", "--save-crops", tmp_path / "crops", "--max-faces", 2),
    )
    assert ran.code == 0, ran.err
    [report] = ran.reports
    faces = report["faces"]
    assert [face["reason"] for face in faces[:4]] == ["skipped", None, None, "over_limit"]
    assert [face["fidelity"] for face in faces[1:3]] == [0.9, 0.6]
    assert [face["box"] for face in faces] == [face["box"] for face in plan["faces"]]
    assert "detect" not in [stage["stage"] for stage in report["stages"]]
    assert [crop["face"] for crop in report["crops"]] == [1, 2]
    for crop in report["crops"]:
        before, after = pixels_of(crop["before"]), pixels_of(crop["after"])
        assert before.shape == after.shape == (512, 512, 3) and (before != after).any()
    assert (pixels_of(report["output"]) != pixels_of(source)).any()


async def test_a_comparison_at_a_service(restorer: Client, source: Path, tmp_path: Path) -> None:
    values = ("--fidelities", 0, 0.5, 1, "--max-faces", 1)
    ran = await run_at_service(restorer, "compare", source, tmp_path / "compared", *values)
    assert ran.code == 0, ran.err
    assert [report["fidelity"] for report in ran.reports] == [0.0, 0.5, 1.0]
    names = [f"wedding_w{w}.png" for w in ("0", "0.5", "1")]
    assert {path.name for path in (tmp_path / "compared").iterdir()} == set(names)
    images = [pixels_of(tmp_path / "compared" / name) for name in names]
    assert (images[0] != images[2]).any()
    for report, image in zip(ran.reports, images, strict=True):
        np.testing.assert_array_equal(pixels_of(report["output"]), image)
        assert [face["fidelity"] for face in report["faces"] if face["restored"]] == [report["fidelity"]]


def test_a_comparison_in_this_process(run_here: RunHere, seeing: Path, source: Path, tmp_path: Path) -> None:
    ran = run_here("compare", source, tmp_path / "compared", "--model-set", seeing, "--max-faces", 1)
    assert ran.code == 0, ran.err
    assert [report["fidelity"] for report in ran.reports] == [0.0, 0.3, 0.6, 1.0]
    for report in ran.reports:
        assert [face["fidelity"] for face in report["faces"] if face["restored"]] == [report["fidelity"]]
    images = [pixels_of(report["output"]) for report in ran.reports]
    assert (images[0] != images[3]).any()


def test_a_plan_of_an_image_without_faces_restores_none(
    run_here: RunHere, seeing: Path, blind: Path, source: Path, tmp_path: Path
) -> None:
    found = run_here("detect", source, "--model-set", blind)
    assert json.loads(found.out) == {"faces": []}
    (tmp_path / "plan.json").write_text(found.out)
    ran = run_here(
        *("restore", source, tmp_path / "out.png", "--model-set", seeing, "--faces", tmp_path / "plan.json")
    )
    assert ran.code == 0 and ran.reports[0]["faces"] == [], ran.err
    np.testing.assert_array_equal(pixels_of(tmp_path / "out.png"), pixels_of(source))


@pytest.mark.parametrize("form", ["whole", "list", "byte order mark"])
def test_a_plan_is_also_what_http_returns_or_takes(
    run_here: RunHere, seeing: Path, source: Path, tmp_path: Path, form: str
) -> None:
    """A whole response of POST /detect, or the list that POST /restore takes."""
    faces = json.loads(run_here("detect", source, "--model-set", seeing).out)["faces"][:1]
    faces[0] |= {"index": 0, "skip": None, "fidelity": 0.25}
    whole = {"success": True, "faces": faces, "width": 1200, "height": 640, "warnings": [], "stages": []}
    text = json.dumps(faces if form == "list" else whole)
    (tmp_path / "plan.json").write_text(text, encoding="utf-8-sig" if form == "byte order mark" else "utf-8")
    ran = run_here(
        *("restore", source, tmp_path / "out.png", "--model-set", seeing, "--faces", tmp_path / "plan.json")
    )
    assert ran.code == 0, ran.err
    assert [face["fidelity"] for face in ran.reports[0]["faces"]] == [0.25]


BOX, LANDMARKS = [0, 0, 9, 9], [[1, 1]] * 5
BAD_PLANS: dict[str, tuple[Any, str]] = {
    "not a list": ({"face": []}, "list of faces"),
    "given twice": ('{"faces": [], "faces": []}', "'faces' is given twice"),
    "nested": ("[" * 100_000, "nested too deeply"),
    "huge number": ({"faces": [{"box": [0, 0, 9, 10**400], "landmarks": LANDMARKS}]}, "face 0: box .*range"),
    "not UTF-8": (b'{"faces": "\xff"}', "plan.json: is not UTF-8 at byte 11"),
    "not a number": ('[{"box": [0, 0, 9, NaN], "landmarks": []}]', "face 0: box is not finite"),
    "not an object": ({"faces": [7]}, "face 0 .*object"),
    "no landmarks": ({"faces": [{"box": BOX}]}, "face 0 .*landmarks"),
    "unknown field": ({"faces": [{"box": BOX, "landmarks": LANDMARKS, "blur": 1}]}, "face 0 .*blur"),
    "box of text": ({"faces": [{"box": [0, 0, "9", 9], "landmarks": LANDMARKS}]}, "face 0: box .*4"),
    "four landmarks": ({"faces": [{"box": BOX, "landmarks": LANDMARKS[:4]}]}, "face 0: landmarks .*5"),
    "numeric skip": ({"faces": [{"box": BOX, "landmarks": LANDMARKS, "skip": 1}]}, "face 0: skip"),
    "fidelity": ({"faces": [{"box": BOX, "landmarks": LANDMARKS, "fidelity": 2}]}, "fidelity .*0 to 1"),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_an_invalid_plan_is_refused_by_face_and_field(
    run_here: RunHere, source: Path, tmp_path: Path, name: str
) -> None:
    plan, problem = BAD_PLANS[name]
    text = plan if isinstance(plan, str | bytes) else json.dumps(plan)
    (tmp_path / "plan.json").write_bytes(text.encode() if isinstance(text, str) else text)
    ran = run_here("restore", source, tmp_path / "out.png", "--faces", tmp_path / "plan.json")
    assert ran.code == 2 and not (tmp_path / "out.png").exists()
    assert re.search(problem, ran.err), ran.err


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--fidelities", 0, 2], r"\b0\b.*\b1\b"),
        (["--fidelities", *[0.1] * 2], "different"),
        (["--fidelities", *[n / 10 for n in range(9)]], "8"),
    ],
)
def test_fidelities_that_cannot_be_compared_are_refused(
    run_here: RunHere, source: Path, tmp_path: Path, flags: list[Any], problem: str
) -> None:
    ran: CommandResult = run_here("compare", source, tmp_path / "compared", *flags)
    assert ran.code == 2 and not (tmp_path / "compared").exists()
    assert re.search(f"--fidelities.*{problem}", ran.err), ran.err
