"""Each alert fires on its problem and only then; by promtool on synthetic series."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.k8s import queries
from tests.k8s.manifests import BACKENDS, combined, of_kind
from tests.k8s.promtool import CAUSES, EXPIRY, GENERATED, MINUTES, OBJECTIVES, SCENARIOS, run, series

Series = list[dict[str, str]]

TO_ZERO = '{atelier_scale_to_zero="true"}'
RESTORES_ONLY = '{atelier_restores_only="true"}'


def vram(free_gb: float) -> Series:
    return [
        series(f'atelier_vram_bytes{{device="cuda:0", kind="{kind}"}}', f"{size}e9x{MINUTES}")
        for kind, size in (("free", free_gb), ("total", 100))
    ]


def failures(reason: str, values: str = f"0+3x{MINUTES}") -> Series:
    name = f'atelier_backend_failures_total{{backend="restorer", reason="{reason}"}}'
    return [series(name, values, "atelier-gateway")]


def unrestored(reason: str, values: str = f"0+3x{MINUTES}") -> Series:
    """Images that clients got as they were drawn."""
    return counted(f'atelier_unrestored_images_total{{reason="{reason}"}}', values)


def replicas(first: str, second: str, job: str = "atelier-generator") -> Series:
    """Two pods that respond, and the seconds in which they loaded; 0: they are still loading."""
    loads = zip("ab", (first, second), strict=True)
    return [
        made
        for pod, load in loads
        for made in (
            series("up", f"1x{MINUTES}", job, pod),
            series("atelier_model_load_seconds", load, job, pod),
        )
    ]


def gateway(up: str = f"1x{MINUTES}", labels: str = "") -> Series:
    return [series(f"up{labels}", up, "atelier-gateway")]


def pending(values: str, backend: str = "generator") -> Series:
    return [series(f'atelier_backend_pending{{backend="{backend}"}}', values, "atelier-gateway")]


def jobs(values: str, status: str = "queued", pods: str = "ab") -> Series:
    """Jobs in the database, of which every gateway reports all."""
    name = f'atelier_jobs{{type="generate", status="{status}"}}'
    return [series(name, values, "atelier-gateway", pod) for pod in pods]


def ended(
    values: str, status: str = "completed", pod: str = "a", namespace: str = queries.NAMESPACE
) -> Series:
    name = f'atelier_jobs_ended_total{{type="generate", status="{status}"}}'
    return [series(name, values, "atelier-gateway", pod, namespace)]


def counted(name: str, values: str) -> Series:
    """A counter or gauge of one gateway."""
    return [series(name, values, "atelier-gateway")]


def answered(code: str, values: str, route: str = "POST /generate") -> Series:
    """Responses of a gateway, all after more than ten seconds."""
    method = f'method="{route}", code="{code}"'
    return [
        *counted(f"atelier_request_duration_seconds_count{{{method}}}", values),
        *counted(f'atelier_request_duration_seconds_bucket{{{method}, le="10.0"}}', f"0x{MINUTES}"),
    ]


def left_at_once(values: str) -> Series:
    """Clients that left within ten seconds."""
    whole, below = answered("499", values)
    return [whole, {**below, "values": values}]


def full(values: str) -> Series:
    refusals = counted('atelier_refusals_total{reason="queue_full"}', values)
    return answered("429", values) + refusals


DAY_S = 86400


def expires(after_s: float, pod: str = "a") -> Series:
    """A gateway's certificate that expires so many seconds after the tests' time begins."""
    return [series(EXPIRY, f"{after_s}x{MINUTES}", "atelier-gateway", pod)]


RETRIES = 'atelier_job_retries_total{type="generate"}'
LOST, FILES = "atelier_job_leases_lost_total", "atelier_job_file_bytes"
GIVEN_UP, POSTED = (f'atelier_webhook_attempts_total{{outcome="{o}"}}' for o in ("given_up", "failed"))
GIB = 2**30

GENERATIONS: Series = [series(GENERATED, f"0+9x{MINUTES}")]
LOADING, READY = f"0x{MINUTES}", f"9x{MINUTES}"
GENERATOR, RESTORER = (replicas(READY, READY, f"atelier-{backend}") for backend in BACKENDS)

PROBLEMS: dict[str, dict[str, Series]] = {
    "AtelierServiceNotReady": {
        "all are loading": replicas(LOADING, LOADING) + RESTORER,
        "none responds": [*RESTORER, series("up", f"0x{MINUTES}")],
        "it alternates between loading and not responding": [
            series("up", f"1 0x4 1 0x9 1 0x{MINUTES}"),
            series("atelier_model_load_seconds", f"0 _x4 0 _x9 0 _x{MINUTES}"),
        ],
        "no generators": gateway() + RESTORER,
        "no restorers": gateway() + GENERATOR,
        "no restorers where there is no generator": gateway(labels=RESTORES_ONLY),
        "no pod starts for the calls that wait": gateway(labels=TO_ZERO) + pending(f"1x{MINUTES}") + RESTORER,
        "a start from nothing takes ten minutes": gateway(labels=TO_ZERO) + pending("0x19 1x20") + RESTORER
        + [series("atelier_model_load_seconds", "_x22 0x20")],
        "nor for occasional calls": gateway(labels=TO_ZERO) + pending("1 0 " * (MINUTES // 2)) + RESTORER,
    },
    "AtelierGatewayGone": {
        "none responds": gateway(f"1x9 0x{MINUTES}"),
        "no pods": gateway("1x9 stale") + GENERATOR + RESTORER,
    },
    "AtelierReplicaNotReady": {
        "one is loading": replicas(LOADING, READY),
        "one does not respond": [series("up", f"0x{MINUTES}"), series("up", f"1x{MINUTES}", pod="b")],
        "one gateway does not": gateway(f"0x{MINUTES}"),
    },
    "AtelierVramNearlyFull": {"92.5 %": vram(7.5)},
    "AtelierRestorerFails": {
        reason: unrestored(reason) + GENERATIONS
        for reason in ("restorer_unavailable", "failed", "out_of_memory")
    },
    "AtelierRestorerFull": {"its queue is full": unrestored("restorer_busy") + GENERATIONS},
    "AtelierCertificateExpires": {
        "in six days": expires(6 * DAY_S),
        "of one of two pods": expires(6 * DAY_S) + expires(60 * DAY_S, "b"),
    },
    "AtelierCertificateExpired": {
        "a day ago": expires(-DAY_S),
        "while it is watched": expires(1200),
        "of one of two pods": expires(-DAY_S) + expires(60 * DAY_S, "b"),
    },
    "AtelierNothingServed": {
        "a service hangs": answered("200", "0+9x9 90x40") + answered("499", f"0x9 0+4x{MINUTES}")
        + full(f"0x9 0+9x{MINUTES}"),
        "and has never worked": answered("499", f"0+1x{MINUTES}"),
        "all find it full": full(f"0+1x{MINUTES}"),
        "photos alone": answered("200", f"0+9x{MINUTES}")
        + answered("499", f"0+1x{MINUTES}", "POST /restore"),
    },
    "AtelierJobsStand": {
        "none is begun": jobs(f"3x{MINUTES}") + ended(f"7x{MINUTES}"),
        "none has ever ended": jobs(f"3x{MINUTES}"),
        "none that was begun ends": jobs(f"2x{MINUTES}", "in_progress") + ended(f"7x{MINUTES}"),
        "they are put off and tried again": jobs("1 0 " * 20) + jobs("0 1 " * 20, "in_progress"),
        "those of another installation end": jobs(f"3x{MINUTES}") + ended(f"0+9x{MINUTES}", namespace="b"),
    },
    "AtelierJobAttemptsFail": {
        "each twice": counted(RETRIES, f"0+1x{MINUTES}") + ended(f"0+1x{MINUTES}"),
        "and none ends": counted(RETRIES, f"0+1x{MINUTES}"),
    },
    "AtelierJobLeasesLost": {"one in five minutes": counted(LOST, f"0+0.2x{MINUTES}")},
    "AtelierWebhooksGivenUp": {
        "the first": counted(GIVEN_UP, "_x25 1x20"),
        "the first of a gateway that posts": counted(GIVEN_UP, "_x25 1x20") + counted(POSTED, "1x50"),
        "another": counted(GIVEN_UP, "4x20 5x30"),
    },
    "AtelierJobFiles": {"17 GiB": counted(FILES, f"{17 * GIB}x{MINUTES}")},
}  # fmt: skip

CALM: dict[str, dict[str, Series]] = {
    "AtelierServiceNotReady": {
        "one is ready": replicas(LOADING, READY) + gateway() + RESTORER,
        "both are scaled to zero": gateway(labels=TO_ZERO) + pending(f"0x{MINUTES}"),
        "one is scaled to zero": gateway(labels=TO_ZERO) + pending(f"0x{MINUTES}") + RESTORER,
        # requested from minute 20, started at 22, ready from 24
        "a call starts one in time": gateway(labels=TO_ZERO) + pending("0x19 1x3 0x20") + RESTORER
        + [series("atelier_model_load_seconds", "_x22 0x1 200x20")],
        # ready from minute 12, and gone again at 20
        "one scales to zero again": gateway(labels=TO_ZERO) + pending("0x9 1x3 0x40") + RESTORER
        + [series("atelier_model_load_seconds", "_x11 0 200x7 stale")],
        "a restorer alone": RESTORER,
        "a restorer and its gateway": gateway(labels=RESTORES_ONLY) + RESTORER,
        "another installation's generator": gateway() + GENERATOR + RESTORER
        + [series("up", f"1x{MINUTES}", "atelier-gateway", namespace="other"),
           series("up", f"1x{MINUTES}", "atelier-generator", namespace="other"),
           series("up", f"1x{MINUTES}", "atelier-restorer", namespace="other")],
    },
    "AtelierGatewayGone": {
        "one of two responds": [
            series("up", f"{up}x{MINUTES}", "atelier-gateway", pod) for pod, up in (("a", 0), ("b", 1))
        ],
        "there never was a gateway": RESTORER,
        "none has ever started": gateway(f"0x{MINUTES}"),
    },
    "AtelierReplicaNotReady": {"a slow start": replicas("0x9 500x40", READY)},
    "AtelierVramNearlyFull": {"91 %": vram(9)},
    "AtelierRestorerFails": {
        "the generator has no work either": unrestored("restorer_unavailable"),
        "four of ninety": unrestored("failed", "0x9 1 2 3 4x30") + GENERATIONS,
        "3 % of many": [*unrestored("failed"), series(GENERATED, f"0+100x{MINUTES}")],
        "it stops at once": unrestored("failed", "0x9 18x30") + GENERATIONS,
        "its queue is full": unrestored("restorer_busy") + GENERATIONS,
        "photos alone, or jobs that are put off": failures("stage_unavailable") + GENERATIONS,
    },
    "AtelierRestorerFull": {
        "the generator has no work either": unrestored("restorer_busy"),
        "3 % of many": [*unrestored("restorer_busy"), series(GENERATED, f"0+100x{MINUTES}")],
        "a burst": unrestored("restorer_busy", "0x9 18x30") + GENERATIONS,
        "photos alone, or jobs that are put off": failures("queue_full") + GENERATIONS,
        **{r: unrestored(r) + GENERATIONS for r in ("failed", "restorer_unavailable", "out_of_memory")},
    },
    "AtelierCertificateExpires": {
        "in thirty days": expires(30 * DAY_S),
        "it is renewed": [series(EXPIRY, f"{6 * DAY_S}x9 {90 * DAY_S}x30", "atelier-gateway")],
        "it has expired, for which another alert is": expires(-DAY_S),
    },
    "AtelierCertificateExpired": {
        "in six days": expires(6 * DAY_S),
        "another has taken its place": [series(EXPIRY, f"{1200}x15 {90 * DAY_S}x30", "atelier-gateway")],
    },
    "AtelierNothingServed": {
        "one in eight minutes is served": answered("200", "0 0 0 0 1x7 2x7 3x7 4x20")
        + answered("499", f"0+9x{MINUTES}") + full(f"0+9x{MINUTES}"),
        "a burst at night": answered("499", "0x9 3 6 9x30") + full("0x9 3 6 9x30"),
        "four at night leave": answered("499", "0x9 1 2 3 4x30"),
        "it hangs for five minutes": answered("200", "0+9x9 90x5 99+9x30")
        + answered("499", "0x9 0+9x5 45x30"),
        **{f"only {code}": answered(code, f"0+9x{MINUTES}")
           for code in ("400", "401", "404", "413", "422", "501")},
        "a client's own limit": answered("429", f"0+9x{MINUTES}")
        + counted('atelier_refusals_total{reason="rate_limited"}', f"0+9x{MINUTES}"),
        "a client changes its mind": left_at_once(f"0+9x{MINUTES}"),
        "errors, for which another alert is": answered("503", f"0+9x{MINUTES}"),
    },
    "AtelierJobsStand": {
        "one ends now and then": jobs(f"3x{MINUTES}") + ended(f"0+0.2x{MINUTES}"),
        "another gateway ends them": jobs(f"3x{MINUTES}") + ended(f"0x{MINUTES}")
        + ended(f"0+1x{MINUTES}", pod="b"),
        "they wait for a start": jobs("0x9 3x14 0x20"),
        "all have ended": jobs(f"9x{MINUTES}", "completed") + ended(f"9x{MINUTES}") + jobs(f"0x{MINUTES}"),
    },
    "AtelierJobAttemptsFail": {
        "a gateway was killed": counted(RETRIES, "0x9 3x30") + ended(f"0+1x{MINUTES}"),
        "3 %": counted(RETRIES, f"0+3x{MINUTES}") + ended(f"0+97x{MINUTES}"),
    },
    "AtelierJobLeasesLost": {"the database was restarted": counted(LOST, "0x9 3x30")},
    "AtelierWebhooksGivenUp": {"a receiver is slow to come back": counted(POSTED, f"0+1x{MINUTES}")},
    "AtelierJobFiles": {"15 GiB": counted(FILES, f"{15 * GIB}x{MINUTES}")},
}  # fmt: skip


def named_labels(alert: str) -> set[str]:
    """The labels that an alert's text uses."""
    [rule] = [r for r in queries.alert_rules() if r["alert"] == alert]
    return set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))


def firing(alert: str, made: Series, count: int) -> dict[str, Any]:
    """A test of promtool: `count` alerts of a name fire at minute 35, with every label that their text uses.

    0: none has fired before either.
    """
    samples = [{"labels": "{}", "value": count}] if count else []
    named = "".join(f', {label}!=""' for label in sorted(named_labels(alert)) if count)
    alerts = f'ALERTS{{alertname="{alert}", alertstate="firing"{named}}}'
    expr = f"count({alerts})" if count else f"count_over_time({alerts}[35m])"
    expectation = {"expr": expr, "eval_time": "35m", "exp_samples": samples}
    return {"interval": "1m", "input_series": made, "promql_expr_test": [expectation]}


@pytest.mark.parametrize("alert", queries.alerts())
def test_each_alert_fires_on_its_problem_and_only_then(alert: str, tmp_path: Path) -> None:
    cases = [(name, made, 1) for name, made in PROBLEMS[alert].items()]
    cases += [(name, made, 0) for name, made in (CALM[alert] | SCENARIOS).items()]
    tests = [{"name": name} | firing(alert, made, count) for name, made, count in cases]
    reads_rates = "atelier_slo:" in queries.alerts()[alert]
    run(tmp_path, tests, groups=OBJECTIVES if reads_rates else CAUSES)


def test_an_alert_names_its_place_and_severity() -> None:
    for rule in queries.alert_rules():
        assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"}), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert "{{ $labels.namespace }}" in rule["annotations"]["summary"], rule["alert"]


def test_pods_of_another_installation_are_not_replicas_of_this_one(tmp_path: Path) -> None:
    others = [series("up", f"1x{MINUTES}", f"atelier-{name}", namespace="other") for name in BACKENDS]
    run(tmp_path, [firing("AtelierServiceNotReady", gateway() + others, len(BACKENDS))], groups=CAUSES)


@pytest.mark.parametrize(
    ("components", "label", "used", "jobs"),
    [
        (("keda", "scale-to-zero"), "atelier-scale-to-zero", TO_ZERO, ["generator", "restorer"]),
        (("restores-only",), "atelier-restores-only", RESTORES_ONLY, ["generator"]),
    ],
)
def test_the_alerts_know_which_services_may_have_no_pods(
    components: tuple[str, ...], label: str, used: str, jobs: list[str]
) -> None:
    rendered = combined("monitoring", *components)
    monitor = of_kind(rendered, "PodMonitor")["atelier-gateway"]["spec"]
    labels = of_kind(rendered, "Deployment")["atelier-gateway"]["spec"]["template"]["metadata"]["labels"]
    assert label in monitor["podTargetLabels"] and labels[label] == "true"
    # as the operator writes it: a character that Prometheus does not allow in a label becomes an underscore
    written = label.replace("-", "_")
    assert f"{written}=" in used
    condition = rf'up\{{job="atelier-gateway"[^}}]* {written}=""[^}}]*\}}\),\s+"job", "atelier-(\w+)"'
    assert re.findall(condition, queries.alerts()["AtelierServiceNotReady"]) == jobs


def test_the_bound_of_jobs_files_is_a_part_of_their_volume() -> None:
    [claim] = of_kind(combined("jobs-sqlite"), "PersistentVolumeClaim").values()
    size = claim["spec"]["resources"]["requests"]["storage"]
    [bound] = re.findall(r"> (\d+) \* 1024 \^ 3", queries.alerts()["AtelierJobFiles"])
    assert size.endswith("Gi") and int(bound) == 0.8 * int(size.removesuffix("Gi"))
