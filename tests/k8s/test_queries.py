"""What the autoscalers, the alerts and the dashboard compute, by promtool on made-up series."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import program
from tests.k8s import queries
from tests.k8s.manifests import STAGES

DRAWN = 'atelier_request_duration_seconds_count{method="GenerateImage", code="OK"}'
GAUGES = (
    "atelier_requests_in_progress",
    "atelier_queue_depth",
    'atelier_stage_pending{stage="generator"}',
    'atelier_stage_pending{stage="restorer"}',
    'atelier_stage_peak_vram_bytes{stage="base"}',
    "process_resident_memory_bytes",
)
COUNTERS = (
    DRAWN,
    'atelier_errors_total{reason="internal"}',
    'atelier_refusals_total{reason="invalid_request"}',
    'atelier_stage_failures_total{stage="restorer", reason="invalid_request"}',
    'atelier_stage_duration_seconds_sum{stage="base"}',
    "atelier_batch_size_sum",
    "atelier_batch_size_count",
    'atelier_faces_total{outcome="restored"}',
    "atelier_cancelled_steps_total",
)
BUCKETS = (
    "atelier_queue_wait_seconds_bucket",
    'atelier_request_duration_seconds_bucket{method="GenerateImage", code="OK"}',
    'atelier_stage_duration_seconds_bucket{stage="base"}',
)
MINUTES = 40


def series(name: str, values: str, job: str = "atelier-generator", pod: str = "a") -> dict[str, str]:
    """One made-up series with the labels that a PodMonitor adds."""
    metric, _, labels = name.rstrip("}").partition("{")
    own = f'namespace="{queries.NAMESPACE}", job="{job}", pod="{pod}"'
    return {"series": f"{metric}{{{', '.join(filter(None, (labels, own)))}}}", "values": values}


def cluster(gauges: str, counters: str, **others: str) -> list[dict[str, str]]:
    """Everything that our processes export, healthy, with these values."""
    made = []
    for job in ("atelier-gateway", "atelier-generator", "atelier-restorer"):
        made += [series(name, gauges, job) for name in GAUGES]
        made += [series(name, counters, job) for name in COUNTERS]
        made += [series("up", f"1x{MINUTES}", job)]
        for bucket in BUCKETS:
            label = "{" if "{" not in bucket else ", "
            made += [series(f'{bucket.rstrip("}")}{label}le="{le}"}}', counters, job) for le in ("1", "+Inf")]
    for stage in STAGES:
        job = f"atelier-{stage}"
        made += [series("atelier_model_load_seconds", f"12x{MINUTES}", job)]
        for kind, size in (("free", "40e9"), ("total", "80e9")):
            name = f'atelier_vram_bytes{{device="cuda:0", kind="{kind}"}}'
            made += [series(name, f"{size}x{MINUTES}", job)]
    return made


SCENARIOS = {
    "rising": cluster(f"0+1x{MINUTES}", f"0+30x{MINUTES}"),
    "steady": cluster(f"3x{MINUTES}", f"0+30x{MINUTES}"),
    "idle": cluster(f"0x{MINUTES}", f"100x{MINUTES}"),
    "empty": [],
}


def run(folder: Path, tests: list[dict[str, Any]], recording: dict[str, str] | None = None) -> None:
    """Let promtool evaluate the rules, and these expressions as q0, q1 ... beside them; it must agree."""
    promtool = program("promtool")
    records = [{"record": f"q{i}", "expr": expr} for i, expr in enumerate((recording or {}).values())]
    groups = [*queries.rules(), {"name": "recorded", "rules": records}]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    checked = subprocess.run(
        [promtool, "check", "rules", "rules.yaml"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (folder / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def everything(folder: Path) -> dict[str, str]:
    scaled = {name: query for name, (query, _) in queries.autoscalers(folder / "overlay").items()}
    return {**scaled, "adapter": queries.adapter(), **queries.panels(), **queries.alerts()}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_query_gives_nan(scenario: str, tmp_path: Path) -> None:
    recorded = everything(tmp_path)
    assert len(recorded) > 30
    expectations = [
        {"expr": f"q{i} != q{i}", "eval_time": "30m", "exp_samples": []} for i in range(len(recorded))
    ]
    test = {"interval": "1m", "input_series": SCENARIOS[scenario], "promql_expr_test": expectations}
    run(tmp_path, [test], recorded)


@pytest.mark.parametrize("scenario", ["rising", "steady"])
def test_every_query_gives_something_while_there_is_work(scenario: str, tmp_path: Path) -> None:
    recorded = {name: q for name, q in everything(tmp_path).items() if name not in queries.alerts()}
    expectations = [
        {"expr": f"count(q{i}) > bool 0", "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for i in range(len(recorded))
    ]
    test = {"interval": "1m", "input_series": SCENARIOS[scenario], "promql_expr_test": expectations}
    run(tmp_path, [test], recorded)


def scaled_to(folder: Path, name: str, made: list[dict[str, str]], value: float | None) -> None:
    """Assert what an autoscaler's query gives at minute 30; None: nothing, so the fallback."""
    query, _ = queries.autoscalers(folder / "overlay")[name]
    samples = [] if value is None else [{"labels": "{}", "value": value}]
    expectation = {"expr": query, "eval_time": "30m", "exp_samples": samples}
    run(folder, [{"interval": "15s", "input_series": made, "promql_expr_test": [expectation]}])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_autoscaler_sums_its_replicas_and_sees_no_other_stage(stage: str, tmp_path: Path) -> None:
    other = "generator" if stage == "restorer" else "restorer"
    made = [
        series("atelier_requests_in_progress", "4x200", f"atelier-{stage}", "a"),
        series("atelier_requests_in_progress", "5x200", f"atelier-{stage}", "b"),
        series("atelier_requests_in_progress", "99x200", f"atelier-{other}", "c"),
    ]
    scaled_to(tmp_path, f"{stage} work", made, 9)
    _, threshold = queries.autoscalers(tmp_path / "overlay")[f"{stage} work"]
    assert math.ceil(9 / threshold) == {"generator": 6, "restorer": 3}[stage]


def test_one_of_two_replicas_without_an_answer_is_not_forgotten_for_a_minute(tmp_path: Path) -> None:
    made = [series("atelier_requests_in_progress", "4x119 _x80", pod="a")]  # the last one at 29:45
    scaled_to(tmp_path, "generator work", made, 4)


@pytest.mark.parametrize(
    "name", ["generator work", "restorer work", "gateway work", "to zero: generator orders"]
)
def test_without_series_there_is_no_answer_so_that_the_fallback_applies(name: str, tmp_path: Path) -> None:
    scaled_to(tmp_path, name, [], None)


def test_a_stage_without_pods_is_woken_by_what_the_gateway_holds(tmp_path: Path) -> None:
    made = [
        series('atelier_stage_pending{stage="restorer"}', "0x118 2 2 2", "atelier-gateway"),
        series('atelier_stage_pending{stage="generator"}', "0x200", "atelier-gateway"),
    ]
    scaled_to(tmp_path, "to zero: restorer orders", made, 2)
    scaled_to(tmp_path, "to zero: generator orders", made, 0)


TROUBLES: dict[str, list[dict[str, str]]] = {
    "AtelierStageNotReady": [series("atelier_model_load_seconds", f"0x{MINUTES}")],
    "AtelierReplicaNotReady": [
        series("atelier_model_load_seconds", f"0x{MINUTES}"),
        series("atelier_model_load_seconds", f"9x{MINUTES}", pod="b"),
    ],
    "AtelierQueueWait": [
        series(f'atelier_queue_wait_seconds_bucket{{le="{le}"}}', f"0+{rate}x{MINUTES}")
        for le, rate in (("20", 10), ("40", 100), ("+Inf", 100))
    ],
    "AtelierRefusals": [
        series('atelier_refusals_total{reason="queue_full"}', f"0+10x{MINUTES}"),
        series(DRAWN, f"0+90x{MINUTES}"),
    ],
    "AtelierVramNearlyFull": [
        series('atelier_vram_bytes{device="cuda:0", kind="free"}', f"5e9x{MINUTES}"),
        series('atelier_vram_bytes{device="cuda:0", kind="total"}', f"80e9x{MINUTES}"),
    ],
    "AtelierRestorerFails": [
        series('atelier_stage_failures_total{stage="restorer", reason="stage_unavailable"}', f"0+3x{MINUTES}",
               "atelier-gateway"),
        series(DRAWN, f"0+9x{MINUTES}"),
    ],
}  # fmt: skip


def firing(alert: str, made: list[dict[str, str]], count: int) -> dict[str, Any]:
    samples = [{"labels": "{}", "value": count}] if count else []
    expr = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    expectation = {"expr": expr, "eval_time": "35m", "exp_samples": samples}
    return {"interval": "1m", "input_series": made, "promql_expr_test": [expectation]}


@pytest.mark.parametrize("alert", queries.alerts())
def test_each_alert_fires_on_its_trouble_and_on_no_other_day(alert: str, tmp_path: Path) -> None:
    tests = [firing(alert, TROUBLES[alert], 1)]
    tests += [firing(alert, made, 0) for made in SCENARIOS.values()]
    run(tmp_path, tests)


def test_a_stage_that_is_down_is_not_ready(tmp_path: Path) -> None:
    run(tmp_path, [firing("AtelierStageNotReady", [series("up", f"0x{MINUTES}")], 1)])


def test_a_restorer_alone_that_fails_is_told_only_while_the_generator_works(tmp_path: Path) -> None:
    failures, _ = TROUBLES["AtelierRestorerFails"]
    run(tmp_path, [firing("AtelierRestorerFails", [failures], 0)])


def test_the_plain_autoscaler_scales_by_the_same_sum(tmp_path: Path) -> None:
    query, _ = queries.autoscalers(tmp_path)["generator work"]
    inside = query.removeprefix("sum(")
    assert queries.adapter().endswith(f"({inside}")
