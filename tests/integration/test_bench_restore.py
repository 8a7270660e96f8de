"""The bench of face restoration runs, and what it says of the pictures holds."""

import json
from pathlib import Path
from typing import Any

import facexlib.detection
import facexlib.parsing
import pytest

from bench import restore
from tests import tiny_restorer


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: Any) -> None:
        raise AssertionError("the bench would fetch weights")

    for package in (facexlib.detection, facexlib.parsing):
        monkeypatch.setattr(package, "load_file_from_url", refuse)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    restore.main([*arguments, "--repeats", "2", "--reference-repeats", "1"])
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


@pytest.mark.parametrize(("file_format", "faces"), [("png", ["1", "5"]), ("jpeg", ["2"])])
def test_prepared_faces_come_to_the_references_pictures(
    capsys: pytest.CaptureFixture[str], file_format: str, faces: list[str]
) -> None:
    sizes = ("--faces", *faces, "--megapixels", "0.3", "--scale", "1", "2")
    result = run(capsys, *sizes, "--format", file_format)
    assert len(result["cases"]) == len(faces) * 2 * 2
    for case in result["cases"]:
        phases = {"decode", "align", "paste", "encode", "total"}
        phases |= {"upscale"} if case["scale"] > 1 else set()
        assert set(case["atelier_seconds"]) == phases
        parse = {"parse"} if case["parsed_mask"] else set()
        assert set(case["reference_seconds"]) == phases | parse
        assert case["atelier_seconds"]["paste"]["n"] == 2
        assert case["reference_seconds"]["paste"]["n"] == 1
        assert case["level_difference"]["share_within_2"] >= 0.999
        # The reference changes pixels where its mask is thinner than one of our levels, and darkens rims.
        assert case["level_difference"]["largest_outside_the_mask"] <= 2
        assert case["atelier_peak_mib"]["paste"] < case["reference_peak_mib"]["paste"]
    for growth in result["same_face"]:
        assert set(growth["paste"]["seconds"]) == set(growth["paste_with_mask"]["seconds"]) == {"0.3 MP"}
        assert growth["paste"]["growth_of_min"] == 1, "of one size alone"


def test_the_networks_run_in_both_flows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tiny_restorer.build_set(
        tmp_path / "set",
        detector=tiny_restorer.detector_state({tiny_restorer.FACES_OF_512_PX: 0.9}),
        codeformer=tiny_restorer.codeformer_state(),
    )
    monkeypatch.setenv("ATELIER_RESTORER_MODEL_SET", str(folder))
    monkeypatch.setenv("ATELIER_RESTORER_DTYPE", "float32")  # as the reference
    sizes = ("--faces", "3", "--megapixels", "0.3", "--scale", "1", "--parse", "off")
    result = run(capsys, *sizes, "--networks", "set", "--device", "cpu")
    (case,) = result["cases"]
    assert result["networks"]["device"] == "cpu"
    for flow in ("atelier", "reference"):
        seconds = case[f"{flow}_seconds"]
        assert {"detect", "restore"} <= set(seconds)
        a_face = case[f"{flow}_network_ms_per_face"]
        assert a_face["min"] == pytest.approx(1000 * seconds["restore"]["min"] / 3, abs=0.1)
    assert case["level_difference"]["share_within_2"] >= 0.999, "one face at a time, or all of them together"
    assert "random weights" in result["networks"]["weights"], "the set has no parser"


def test_what_would_take_the_reference_too_long_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--faces", "2", "--megapixels", "0.3", "--scale", "1", "--parse", "off")
    (case,) = run(capsys, *sizes, "--reference-limit", "0.5")["cases"]
    assert "skipped" in case["reference_seconds"]
    assert "speedup" not in case
    assert "paste" in case["atelier_seconds"]
