import json

import pytest

from bench import parity
from bench.parity import Figure


def test_one_network_is_compared_and_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["parity", "--seed", "2", "--only", "retinaface_mobile025"])
    assert parity.main() == 0
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert report["seed"] == 2
    assert {figure["quantity"] for figure in report["figures"]} >= {"loc", "priors", "boxes and landmarks"}
    assert all(figure["within_tolerance"] for figure in report["figures"])
    assert all(figure["quantity"] in output.err for figure in report["figures"])


@pytest.mark.parametrize("difference", [1.1e-4, float("nan")])
def test_what_exceeds_its_tolerance_fails(
    difference: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(
        parity.PARTS, "parsenet", lambda seed: iter([Figure("ParseNet", "logits", difference, 1e-4)])
    )
    monkeypatch.setattr("sys.argv", ["parity", "--only", "parsenet"])
    assert parity.main() == 1
    assert "**exceeded**" in capsys.readouterr().err


def test_nan_is_the_largest_difference() -> None:
    assert parity.max_difference([1.0, 2.0], [1.5, 2.0]) == 0.5
    assert parity.max_difference([1.0, float("nan")], [1.0, 2.0]) != 0
