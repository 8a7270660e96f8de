"""The objectives, and what they are measured on: every route has its kind, every error its fault."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Histogram

from atelier_gateway.api.native.generate import OLDER_PATHS
from atelier_gateway.app import create_app
from atelier_gateway.http.errors import HTTP_STATUS
from atelier_gateway.settings import GatewaySettings
from atelier_runtime import metrics
from atelier_runtime.errors import ErrorReason
from tests.k8s import queries
from tests.k8s.manifests import K8S, ROOT, kustomize, of_kind

RECORDED: list[dict[str, Any]] = [
    rule for group in queries.rules() for rule in group["rules"] if "record" in rule
]
OBJECTIVES = [rule for rule in RECORDED if rule["record"] == queries.OBJECTIVE]

OF_NO_KIND = {
    "POST /v1/inspect": "reads a file in the gateway; no service takes part",
    "POST /v1/jobs/{job_id}/cancel": "the job counts when it ends",
    "POST /v1/jobs/{job_id}/expire": "nobody waits for it",
    "POST /login": "of the web UI; does nothing here",
    "POST /sdapi/v1/png-info": "reads a file in the gateway; no service takes part",
    "POST /sdapi/v1/interrupt": "stops what counts when it ends",
    "POST /sdapi/v1/skip": "stops what counts when it ends",
    "POST /sdapi/v1/options": "of the web UI; does nothing here",
    **{
        f"POST /sdapi/v1/refresh-{what}": "of the web UI; does nothing here"
        for what in ("checkpoints", "embeddings", "hypernetworks", "loras", "vae")
    },
}
"""Routes on which nobody waits for work, and why they do not count."""


def posts() -> set[str]:
    """Every route that does something, with the label that the metric gives it."""
    paths = create_app(GatewaySettings()).openapi()["paths"]
    return {f"POST {path}" for path in (*paths, *OLDER_PATHS) if "post" in paths.get(path, {"post"})}


def methods(record: str) -> dict[str, str]:
    """Kind -> the regular expression of its routes."""
    rules = [rule for rule in RECORDED if rule["record"] == record]
    found = {}
    for rule in rules:
        [found[rule["labels"]["kind"]]] = re.findall(r'method=~"([^"]*)"', rule["expr"])
    return found


def test_each_route_on_which_somebody_waits_for_work_is_of_one_kind() -> None:
    kinds = methods("atelier_slo:requests:rate5m")
    outputs = "GET /v1/jobs/{job_id}/outputs/{name}"
    for route in (*posts(), outputs):
        found = [kind for kind, expression in kinds.items() if re.fullmatch(expression, route)]
        assert len(found) == (0 if route in OF_NO_KIND else 1), route
    assert set(OF_NO_KIND) <= posts()


def test_what_is_in_time_is_counted_on_the_same_routes_as_what_was_asked_for() -> None:
    kinds = methods("atelier_slo:requests:rate5m")
    in_time = methods("atelier_slo:requests_in_time:rate5m")
    assert in_time.keys() == {"drawing", "photos"}
    batch = "POST /sdapi/v1/extra-batch-images"
    for kind, expression in in_time.items():
        for route in posts() - {batch}:
            assert bool(re.fullmatch(expression, route)) == bool(re.fullmatch(kinds[kind], route)), route
        assert not re.fullmatch(expression, batch), "it has no time"


def test_who_left_is_counted_on_the_same_routes_and_after_the_bound_of_a_bucket() -> None:
    kinds = methods("atelier_slo:requests:rate5m")
    rules = {
        rule["labels"]["kind"]: rule["expr"]
        for rule in RECORDED
        if rule["record"] == "atelier_slo:unserved:rate5m" and "kind" in rule.get("labels", {})
    }
    assert set(rules) == {"drawing", "photos"}
    for kind, expr in rules.items():
        assert re.findall(r'method=~"([^"]*)"', expr) == [kinds[kind]] * 2
        assert set(re.findall(r'le="([^"]*)"', expr)) <= bounds(metrics.REQUEST_DURATION, "POST /x", "499")


def test_an_error_is_ours_if_its_status_says_so_and_it_was_not_asked_for() -> None:
    [bad] = [
        rule["expr"]
        for rule in RECORDED
        if rule["record"] == "atelier_slo:bad:rate5m" and rule["labels"] == {"slo": "availability"}
    ]
    ours = re.search(r'code=~"(5[^"]*)"', bad)
    assert ours
    for reason, status in HTTP_STATUS.items():
        expected = status >= 500 and reason is not ErrorReason.NOT_SERVED
        assert bool(re.fullmatch(ours[1], str(status))) == expected, reason


@pytest.mark.parametrize("rule", OBJECTIVES, ids=lambda rule: " ".join(rule["labels"].values()))
def test_an_objective_can_be_missed_and_its_time_is_the_bound_of_a_bucket(rule: dict[str, Any]) -> None:
    written = re.fullmatch(r"vector\((0\.\d+)\)", rule["expr"])
    assert written and 0.95 <= float(written[1]) < 1
    assert 14.4 * (1 - float(written[1])) < 1, "or the fastest alert could not fire"
    labels = dict(rule["labels"])
    assert ("le" in labels) == (labels["slo"] == "latency")
    if "le" in labels:
        of_jobs = bounds(metrics.JOB_DURATION, "restore", "completed")
        of_requests = bounds(metrics.REQUEST_DURATION, "POST /restore", "200")
        assert labels["le"] in (of_jobs if labels["kind"] == "jobs" else of_requests)


def bounds(histogram: Histogram, *labels: str) -> set[str]:
    """The values of `le` in which it is exported."""
    histogram.labels(*labels)
    samples = [sample for family in histogram.collect() for sample in family.samples]
    return {sample.labels["le"] for sample in samples if sample.name.endswith("_bucket")}


def test_every_objective_is_measured_and_everything_measured_has_an_objective() -> None:
    with_kind = {
        (rule["labels"]["slo"], rule["labels"]["kind"])
        for rule in RECORDED
        if rule["record"] == "atelier_slo:total:rate5m" and "kind" in rule["labels"]
    }
    kinds = methods("atelier_slo:requests:rate5m")
    by_kind = {("availability", kind) for kind in kinds}
    by_kind |= {("latency", kind) for kind in methods("atelier_slo:requests_in_time:rate5m")}
    measured = with_kind | by_kind
    assert {(rule["labels"]["slo"], rule["labels"]["kind"]) for rule in OBJECTIVES} == measured


def test_rates_are_recorded_every_minute_or_the_alerts_would_count_wrongly() -> None:
    intervals = {
        group["name"]: group.get("interval")
        for group in queries.rules()
        if any("atelier_slo:" in rule["expr"] + rule.get("record", "") for rule in group["rules"])
    }
    assert intervals == dict.fromkeys(("atelier-objectives", "atelier-slo", "atelier-burn"), "1m")
    for condition in queries.burn_alerts().values():
        assert condition.count(" and 60 * sum_over_time(") == condition.count("atelier_slo:bad:rate5m[")


def page(language: str) -> str:
    """The one block of a language in docs/slo.md."""
    text = (ROOT / "docs/slo.md").read_text(encoding="utf-8")
    [found] = re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_pages_patch_changes_an_objective(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    folder = tmp_path / "k8s/overlays/own"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text("resources: [../autoscale]\n" + page("yaml"))
    rendered = list(yaml.safe_load_all(kustomize(folder)))
    rule = of_kind(rendered, "PrometheusRule")["atelier-objectives"]["spec"]["groups"][0]["rules"][3]
    assert rule["labels"] == {"slo": "latency", "kind": "drawing", "le": "120.0"}
    assert rule["expr"] == "vector(0.98)"
    assert rule["labels"]["le"] in bounds(metrics.REQUEST_DURATION, "POST /generate", "200")


def test_the_pages_command_sets_where_the_runbooks_are(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    subprocess.run(["bash", "-ec", page("sh")], cwd=tmp_path, check=True, timeout=60)
    texts = [file.read_text() for file in (tmp_path / "k8s/components/monitoring").glob("*.yaml")]
    assert "atelier.example" not in "".join(texts)
    addresses = [line.split()[1] for text in texts for line in text.splitlines() if "runbook_url" in line]
    assert len(addresses) == len(queries.alert_rules())
    assert all(address.startswith("https://YOUR.SERVER/atelier/docs/runbooks/") for address in addresses)
