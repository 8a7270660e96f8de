"""What the autoscalers and the dashboard compute, by promtool on synthetic series."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from atelier_gateway.settings import GatewaySettings
from tests.k8s import queries
from tests.k8s.manifests import BACKENDS
from tests.k8s.promtool import SCENARIOS, run, series


def everything() -> dict[str, str]:
    scaled = {name: query for name, (query, _) in queries.autoscalers().items()}
    return {**scaled, "adapter": queries.adapter(), **queries.panels(), **rules()}


def rules() -> dict[str, str]:
    return {**queries.alerts(), **queries.burn_alerts(), **queries.recorded()}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_query_gives_nan(scenario: str, tmp_path: Path) -> None:
    recorded = everything()
    assert len(recorded) > 30
    expectations = [
        {"expr": f"q{i} != q{i}", "eval_time": "30m", "exp_samples": []} for i in range(len(recorded))
    ]
    test = {"interval": "1m", "input_series": SCENARIOS[scenario], "promql_expr_test": expectations}
    run(tmp_path, [test], recorded)


@pytest.mark.parametrize("scenario", ["rising", "steady"])
def test_every_query_gives_something_while_there_is_work(scenario: str, tmp_path: Path) -> None:
    recorded = {name: q for name, q in everything().items() if name not in rules()}
    expectations = [
        {"expr": f"count(q{i}) > bool 0", "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for i in range(len(recorded))
    ]
    test = {"interval": "1m", "input_series": SCENARIOS[scenario], "promql_expr_test": expectations}
    run(tmp_path, [test], recorded)


def scaled_to(folder: Path, name: str, made: list[dict[str, str]], value: float | None) -> None:
    """Assert what an autoscaler's query returns at minute 30; None: nothing, so the fallback applies."""
    query, _ = queries.autoscalers()[name]
    samples = [] if value is None else [{"labels": "{}", "value": value}]
    expectation = {"expr": query, "eval_time": "30m", "exp_samples": samples}
    run(folder, [{"interval": "15s", "input_series": made, "promql_expr_test": [expectation]}], groups=())


@pytest.mark.parametrize("service", BACKENDS)
def test_an_autoscaler_sums_the_replicas_of_its_own_service_only(service: str, tmp_path: Path) -> None:
    other = "generator" if service == "restorer" else "restorer"
    made = [
        series("atelier_requests_in_progress", "4x200", f"atelier-{service}", "a"),
        series("atelier_requests_in_progress", "5x200", f"atelier-{service}", "b"),
        series("atelier_requests_in_progress", "99x200", f"atelier-{other}", "c"),
    ]
    scaled_to(tmp_path, f"{service} work", made, 9)
    _, threshold = queries.autoscalers()[f"{service} work"]
    assert math.ceil(9 / threshold) == {"generator": 6, "restorer": 3}[service]


def test_the_gateways_autoscaler_counts_what_each_gateway_has_sent_to_either_service(tmp_path: Path) -> None:
    calls = {("a", "generator"): 30, ("a", "restorer"): 4, ("b", "generator"): 7}
    made = [
        series(f'atelier_backend_pending{{backend="{backend}"}}', f"{count}x200", "atelier-gateway", pod)
        for (pod, backend), count in calls.items()
    ]
    scaled_to(tmp_path, "gateway work", made, 41)
    _, threshold = queries.autoscalers()["gateway work"]
    assert math.ceil(41 / threshold) == 3


def test_a_replica_that_stops_responding_counts_for_another_minute(tmp_path: Path) -> None:
    made = [series("atelier_requests_in_progress", "4x117 _x80", pod="a")]  # the last one at 29:15
    scaled_to(tmp_path, "generator work", made, 4)


@pytest.mark.parametrize(
    "name", ["generator work", "restorer work", "gateway work", "to zero: generator pending"]
)
def test_without_series_there_is_no_result_so_that_the_fallback_applies(name: str, tmp_path: Path) -> None:
    scaled_to(tmp_path, name, [], None)


def test_a_service_without_pods_is_started_by_what_the_gateway_holds(tmp_path: Path) -> None:
    made = [
        series('atelier_backend_pending{backend="restorer"}', "0x118 2 2 2", "atelier-gateway"),
        series('atelier_backend_pending{backend="generator"}', "0x200", "atelier-gateway"),
    ]
    scaled_to(tmp_path, "to zero: restorer pending", made, 2)
    scaled_to(tmp_path, "to zero: generator pending", made, 0)


def waiting(counts: dict[tuple[str, str], str], pods: str = "ab") -> list[dict[str, str]]:
    """Jobs by type and status; every gateway reports all of the database."""
    return [
        series(f'atelier_jobs{{type="{kind}", status="{status}"}}', values, "atelier-gateway", pod)
        for (kind, status), values in counts.items()
        for pod in pods
    ]


JOBS = {
    ("generate", "queued"): "9x200",
    ("generate", "in_progress"): "4x200",
    ("generate", "completed"): "500x200",
    ("restore", "queued"): "3x200",
    ("detect", "in_progress"): "1x200",
    ("compare", "queued"): "2x200",
    ("restore", "failed"): "99x200",
}


@pytest.mark.parametrize(
    ("name", "count", "replicas"),
    [("generator", 13, 9), ("restorer", 6, 2), ("gateway", 19, 5), ("to zero: generator", 13, 9)],
)
def test_autoscalers_count_jobs_that_have_not_ended_once(
    name: str, count: int, replicas: int, tmp_path: Path
) -> None:
    others = [
        series('atelier_jobs{type="generate", status="queued"}', "77x200", "atelier-gateway", namespace="x")
    ]
    scaled_to(tmp_path, f"{name} jobs", waiting(JOBS) + others, count)
    _, threshold = queries.autoscalers()[f"{name} jobs"]
    assert math.ceil(count / threshold) == replicas


@pytest.mark.parametrize("service", BACKENDS)
def test_a_job_that_waits_starts_a_service_without_pods(service: str, tmp_path: Path) -> None:
    kind = "generate" if service == "generator" else "compare"
    made = waiting({(kind, "queued"): "0x115 1x5"}, "a")
    query, _ = queries.autoscalers()[f"to zero: {service} jobs"]
    expectation = {
        "expr": f"({query}) > bool 0",
        "eval_time": "30m",
        "exp_samples": [{"labels": "{}", "value": 1}],
    }
    run(tmp_path, [{"interval": "15s", "input_series": made, "promql_expr_test": [expectation]}], groups=())


@pytest.mark.parametrize("service", ["generator", "restorer", "gateway"])
def test_gateways_without_jobs_scale_nothing(service: str, tmp_path: Path) -> None:
    scaled_to(tmp_path, f"{service} jobs", [series("up", "1x200", "atelier-gateway")], 0)


def test_a_gateway_is_added_for_what_one_carries_out_at_once() -> None:
    assert queries.autoscalers()["gateway jobs"][1] == GatewaySettings().jobs_at_once
