"""What `bench.chaos` makes of its figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos import page
from bench.chaos.__main__ import main
from bench.chaos.figures import Result, at_least, at_most, informs, none_of
from bench.chaos.promises import PROMISES
from bench.chaos.scenarios import SCENARIOS

ROOT = Path(__file__).parents[3]
MACHINE = {"cpu": "a CPU", "cores": 2, "memory_gib": 8.0}
EMPTY = "before\n<!-- measured: python -m bench.chaos -->\nold\n<!-- end -->\nafter\n"


def test_goals_are_met_or_not() -> None:
    assert at_most("x", 5, 5, "s").met and not at_most("x", 5.1, 5, "s").met
    assert at_least("x", 90, 90, "%").met and not at_least("x", 89, 90, "%").met
    assert none_of("x", 0).met and not none_of("x", 1).met
    assert informs("x", 1, "s").met is None


def test_only_what_does_not_depend_on_speed_breaks_a_promise() -> None:
    assert not page.is_broken(Result([at_most("slow", 9, 5, "s", timed=True), informs("x", 1, "")]))
    assert page.is_broken(Result([none_of("lost", 1)]))
    assert page.is_broken(Result([at_most("descriptors", 9, 5, "")]))
    assert page.is_broken(Result([at_least("share", 0.5, 0.8, "")]))
    assert page.is_broken(Result(failed="not ended"))
    assert not page.is_broken(Result(skipped="no disk to fill"))


def test_the_page_has_each_figure_in_the_rows_of_its_promises(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(EMPTY)
    results = {
        "held": Result([none_of("hung", 3, "R4", "R8")], [{"fault": "a | b", "answers": "2 whole"}]),
        "clock_jumps": Result(skipped="no library"),
    }
    page.write(path, results, MACHINE)
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    lines = text.splitlines()
    assert [line.split(" | ")[0] for line in lines if "hung: 3" in line] == ["| R4", "| R8"]
    assert all("| 0 | **no** | `held` |" in line for line in lines if "hung: 3" in line)
    assert all(any(line.startswith(f"| {number} |") for line in lines) for number in PROMISES)
    assert r"| a \| b | 2 whole |" in lines and "| `clock_jumps` | no library |" in lines
    page.write(path, {}, MACHINE)
    assert "hung" not in path.read_text()


def test_a_page_without_the_markers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("nothing here\n")
    with pytest.raises(ValueError, match="markers"):
        page.write(path, {}, MACHINE)
    assert path.read_text() == "nothing here\n"


@pytest.mark.parametrize("number", PROMISES)
def test_the_tests_that_show_a_promise_are_there(number: str) -> None:
    assert PROMISES[number].tests
    assert all((ROOT / test).exists() for test in PROMISES[number].tests)


def test_the_page_names_every_scenario() -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    assert all(f"\n| `{name}` | " in text for name in SCENARIOS)


@pytest.mark.parametrize("flags", [["--quick"], ["--only", "held"]])
def test_a_part_of_the_figures_is_not_written(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*flags, "--write", "docs/reliability.md"])
    assert "needs all of it" in capsys.readouterr().err
