"""Grafana's dashboard: every panel describes what it shows, with a unit and distinct names."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from tests.k8s import queries

DASHBOARD = queries.dashboard()
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGET_LABELS = {"namespace", "job", "pod"}
OWN_LABELS = {"atelier_vram_bytes": {"device"}}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_describes_what_it_shows(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 10
    unit = panel["fieldConfig"]["defaults"]["unit"]
    assert re.fullmatch(r"s|bytes|percentunit|reqps|suffix: [a-z]+(/s)?", unit)
    rates = [target["expr"].startswith("sum") and "rate(" in target["expr"] for target in panel["targets"]]
    shares = [" / " in target["expr"] or "_seconds_sum" in target["expr"] for target in panel["targets"]]
    if all(rates) and not any(shares):
        assert unit == "reqps" or unit.endswith("/s"), "counted by the second"
    for seconds in re.findall(r"atelier_\w+_seconds_bucket", str(panel["targets"])):
        assert unit == "s", seconds
    assert (
        panel["options"]["legend"]["displayMode"] == "table"
        and panel["options"]["tooltip"]["mode"] == "multi"
    )


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_legend_distinguishes_the_lines(panel: dict[str, Any]) -> None:
    by_legend: dict[str, list[str]] = {}
    for target in panel["targets"]:
        query = target["expr"]
        grouped = re.search(r"\bby \(([^)]*)\)", query)
        if grouped:
            labels = set(grouped[1].replace(" ", "").split(",")) - {"le"}
        else:
            [metric] = queries.metrics_in(query)
            labels = TARGET_LABELS | OWN_LABELS[metric]
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert named and named <= labels, target["legendFormat"]
        assert labels - named <= {"namespace", "job"}, "two lines would have the same name"
        by_legend.setdefault(target["legendFormat"], []).append(query)
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        selectors = re.findall(r"\b(?:atelier|process)_[\w:]+(?:\{([^}]*)\})?|\bup\{([^}]*)\}", query)
        assert selectors and all('namespace=~"$namespace"' in "".join(found) for found in selectors)
    for shared in (found for found in by_legend.values() if len(found) > 1):
        matchers = {matcher for query in shared for matcher in queries.matchers_in(query)}
        assert "job" in {matcher.label for matcher in matchers}, "each query is about other processes"


def test_nothing_overlaps() -> None:
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for key in ("id", "title"):
        assert len({panel[key] for panel in DASHBOARD["panels"]}) == len(boxes)
    for box in boxes:
        assert box["x"] + box["w"] <= 24
    for one, other in itertools.combinations(boxes, 2):
        side_by_side = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert side_by_side or above, (one, other)


def test_every_exported_metric_is_shown() -> None:
    shown = set().union(*(queries.metrics_in(query) for query in queries.panels().values()))
    # histograms by their buckets, or by the sum and count of them
    families = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in shown}
    exported = queries.exported()
    assert {name for name in families if name.startswith("atelier_") and ":" not in name} <= exported
    assert {name for name in shown if ":" in name} <= {name.split()[0] for name in queries.recorded()}
    assert exported - families == {"atelier_build_info"}, "the variable is selected by it"
    assert "label_values(atelier_build_info, namespace)" in str(DASHBOARD["templating"])


def test_the_objectives_come_first_and_then_their_causes() -> None:
    rows = sorted((p for p in DASHBOARD["panels"] if p["type"] == "row"), key=lambda row: row["gridPos"]["y"])
    below = rows[1]["gridPos"]["y"]
    first = [panel for panel in PANELS if panel["gridPos"]["y"] < below]
    read = [name for panel in first for t in panel["targets"] for name in queries.metrics_in(t["expr"])]
    assert first and all(name.startswith("atelier_slo:") for name in read)
