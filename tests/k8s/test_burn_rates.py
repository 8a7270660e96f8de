"""Alerts on error budgets: they fire within minutes of a large burn, not on a blip, and end; by promtool.

All times are minutes. Hours without errors come first, so that the windows are those of a running system.
Every case is an installation in a namespace of its own, so that one run of promtool evaluates many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.k8s import queries
from tests.k8s.promtool import CAUSES, OBJECTIVES, run, series

Series = list[dict[str, str]]
Phases = Sequence[tuple[int, float, float]]
"""Minutes, and good and bad events in each."""

QUIET = 6 * 60
PER_MINUTE = 60


def counter(phases: Iterable[tuple[int, float]]) -> str:
    """A counter's values, from minutes and how much it grows in each."""
    values, at = ["0"], 0.0
    for minutes, growth in phases:
        values.append(f"{at + growth:g}+{growth:g}x{minutes - 1}")
        at += minutes * growth
    return " ".join(values)


def good(phases: Phases) -> str:
    return counter((minutes, of_good) for minutes, of_good, _ in phases)


def bad(phases: Phases) -> str:
    return counter((minutes, of_bad) for minutes, _, of_bad in phases)


def both(phases: Phases) -> str:
    return counter((minutes, of_good + of_bad) for minutes, of_good, of_bad in phases)


def of_gateway(name: str, values: str) -> dict[str, str]:
    return series(name, values, "atelier-gateway")


def answered(route: str, code: str, values: str) -> dict[str, str]:
    name = f'atelier_request_duration_seconds_count{{method="{route}", code="{code}"}}'
    return of_gateway(name, values)


def answered_in_time(route: str, code: str, within: str, values: str) -> dict[str, str]:
    name = f'atelier_request_duration_seconds_bucket{{method="{route}", code="{code}", le="{within}"}}'
    return of_gateway(name, values)


def ended(outcome: str, values: str) -> dict[str, str]:
    name = f'atelier_job_duration_seconds_count{{type="restore", outcome="{outcome}"}}'
    return of_gateway(name, values)


def failing(route: str, code: str) -> Callable[[Phases], Series]:
    return lambda phases: [answered(route, "200", good(phases)), answered(route, code, bad(phases))]


def slow(route: str, within: str) -> Callable[[Phases], Series]:
    return lambda phases: [
        answered(route, "200", both(phases)),
        answered_in_time(route, "200", within, good(phases)),
    ]


def late_jobs(phases: Phases) -> Series:
    bucket = 'atelier_job_duration_seconds_bucket{type="restore", outcome="completed", le="3600.0"}'
    return [ended("completed", both(phases)), of_gateway(bucket, good(phases))]


def failed_jobs(phases: Phases) -> Series:
    return [ended("completed", good(phases)), ended("failed", bad(phases))]


def refused(phases: Phases) -> Series:
    refusals = of_gateway('atelier_refusals_total{reason="queue_full"}', bad(phases))
    return [answered("POST /generate", "200", good(phases)), refusals]


@dataclass(frozen=True)
class Problem:
    """What goes wrong: its alert, the error budget (a share), the series of good and bad events."""

    alert: str
    budget: float
    made: Callable[[Phases], Series]

    def burning(self, minutes: int, rate: float) -> tuple[int, float, float]:
        """A phase in which the budget burns at this rate."""
        of_bad = PER_MINUTE * rate * self.budget
        return minutes, PER_MINUTE - of_bad, of_bad

    def outage(self, minutes: int) -> tuple[int, float, float]:
        return self.burning(minutes, 1 / self.budget)

    def after_quiet_hours(self, *phases: tuple[int, float, float]) -> Case:
        return Case(self.alert, self.made([self.burning(QUIET, 0), *phases]))


@dataclass(frozen=True)
class Case:
    """An installation: the one alert that may fire, and its series."""

    alert: str
    series: Series


PAGED = {
    "drawing_fails": Problem("AtelierAvailabilityBurn", 0.005, failing("POST /generate", "500")),
    "dialect_fails": Problem("AtelierAvailabilityBurn", 0.005, failing("POST /sdapi/v1/txt2img", "503")),
    "photos_fail": Problem("AtelierAvailabilityBurn", 0.005, failing("POST /restore", "504")),
    "no_job_is_accepted": Problem("AtelierAvailabilityBurn", 0.005, failing("POST /v1/jobs", "503")),
    "jobs_fail": Problem("AtelierCompletionBurn", 0.005, failed_jobs),
    "drawing_is_slow": Problem("AtelierLatencyBurn", 0.01, slow("POST /v1/images/generations", "80.0")),
}
"""What wakes somebody, by namespace."""

NOT_PAGED = {
    "photos_are_slow": Problem("AtelierLatencyBurn", 0.01, slow("POST /detect", "20.0")),
    "jobs_are_late": Problem("AtelierLatencyBurn", 0.05, late_jobs),
    "all_is_full": Problem("AtelierAdmissionBurn", 0.01, refused),
}
"""What waits until the morning."""

ALL = PAGED | NOT_PAGED

OF_EACH_ALERT = {problem.alert: problem for problem in (*NOT_PAGED.values(), *PAGED.values())}
PAGED_OF_EACH_ALERT = {problem.alert: problem for problem in PAGED.values()}
"""One for each alert: what follows from the windows alone is the same for all."""


def check(
    folder: Path, made: Series, *expectations: dict[str, Any], groups: Sequence[str] = OBJECTIVES
) -> None:
    test = {"interval": "1m", "input_series": made, "promql_expr_test": list(expectations)}
    run(folder, [test], groups=groups)


def in_namespace(name: str, made: Series) -> Series:
    own = f'namespace="{queries.NAMESPACE}"'
    return [{**each, "series": each["series"].replace(own, f'namespace="{name}"')} for each in made]


def check_fired(folder: Path, cases: Mapping[str, Case], *fired: tuple[str, int, Iterable[str]]) -> None:
    """`fired`: a severity, a minute, and the installations whose alert fires then; no other alert may."""
    expectations = []
    for severity, at, names in fired:
        samples = [
            {"labels": f'{{alertname="{cases[name].alert}", namespace="{name}"}}', "value": 1}
            for name in names
        ]
        expr = f'count by (alertname, namespace) (ALERTS{{severity="{severity}", alertstate="firing"}})'
        expectations.append({"expr": expr, "eval_time": f"{at}m", "exp_samples": samples})
    made = [each for name, case in cases.items() for each in in_namespace(name, case.series)]
    check(folder, made, *expectations)


def test_an_outage_pages_within_minutes_and_the_alert_ends_minutes_after_it(tmp_path: Path) -> None:
    fails = [name for name, problem in PAGED.items() if problem.budget == 0.005]
    minutes = {name: 10 if name in fails else 13 for name in PAGED}
    check_fired(
        tmp_path,
        {
            name: problem.after_quiet_hours(problem.outage(minutes[name]), problem.burning(60, 0))
            for name, problem in PAGED.items()
        },
        ("critical", QUIET, []),
        ("critical", QUIET + 8, fails),
        ("critical", QUIET + 13, PAGED),
        ("critical", QUIET + 20, []),
        ("critical", QUIET + 70, []),
    )


def test_a_blip_of_two_minutes_alerts_nobody(tmp_path: Path) -> None:
    check_fired(
        tmp_path,
        {
            name: problem.after_quiet_hours(problem.outage(1), problem.burning(30, 0))
            for name, problem in OF_EACH_ALERT.items()
        },
        *((severity, QUIET + at, []) for severity in ("critical", "warning") for at in (1, 2, 3, 6, 30)),
    )


def around(rate: float, minutes: int, quiet: int) -> tuple[dict[str, Case], dict[str, Case]]:
    """Installations whose budgets burn a little faster than this, and a little slower."""
    faster: dict[str, Case] = {}
    slower: dict[str, Case] = {}
    for alert, problem in PAGED_OF_EACH_ALERT.items():
        for cases, factor in ((faster, 1.04), (slower, 0.96)):
            phases = [problem.burning(quiet, 0)] if quiet else []
            made = problem.made([*phases, problem.burning(minutes, factor * rate)])
            cases[f"{alert}_{factor:g}".replace(".", "_")] = Case(alert, made)
    return faster, slower


def test_a_burn_of_an_hour_pages_from_14_4_times_the_budget(tmp_path: Path) -> None:
    faster, slower = around(14.4, 70, QUIET)
    check_fired(tmp_path, faster | slower, ("critical", QUIET + 40, []), ("critical", QUIET + 68, faster))


def test_a_burn_of_six_hours_pages_from_6_times_the_budget(tmp_path: Path) -> None:
    faster, slower = around(6, 375, 0)
    check_fired(tmp_path, faster | slower, ("critical", 373, faster))


def test_a_slow_burn_makes_a_ticket_and_no_page_and_less_than_the_budget_nothing(tmp_path: Path) -> None:
    faster = {name: Case(p.alert, p.made([p.burning(375, 1.1)])) for name, p in ALL.items()}
    slower = {f"{p.alert}_slower": Case(p.alert, p.made([p.burning(375, 0.9)])) for p in ALL.values()}
    check_fired(tmp_path, faster | slower, ("critical", 373, []), ("warning", 373, faster))


def test_what_lacks_capacity_wakes_nobody(tmp_path: Path) -> None:
    cases = {name: problem.after_quiet_hours(problem.outage(150)) for name, problem in NOT_PAGED.items()}
    check_fired(tmp_path, cases, ("critical", QUIET + 145, []), ("warning", QUIET + 145, NOT_PAGED))


def test_one_of_three_requests_a_night_wakes_nobody(tmp_path: Path) -> None:
    night = [(100, 0, 0), (1, 2, 0), (30, 0, 0), (1, 0, 1), (120, 0, 0)]
    cases = {name: Case(problem.alert, problem.made(night)) for name, problem in OF_EACH_ALERT.items()}
    check_fired(
        tmp_path,
        cases,
        *((severity, at, []) for severity in ("critical", "warning") for at in (133, 136, 200)),
    )


def test_what_is_no_fault_of_ours_burns_nothing(tmp_path: Path) -> None:
    steady = counter([(180, PER_MINUTE)])
    made = [answered("POST /generate", code, steady) for code in ("200", "401", "422", "429", "499", "501")]
    made += [of_gateway('atelier_refusals_total{reason="rate_limited"}', steady)]
    made += [of_gateway('atelier_refusals_total{reason="queue_full"}', "0x180")]
    made += [ended("rejected", steady), ended("completed", steady), ended("failed", "0x180")]
    rates = "atelier_slo:burn:rate1h{slo!='latency'}"
    there = {"labels": "{}", "value": len({"availability", "completion", "admission"})}
    check(
        tmp_path,
        made,
        {"expr": f"count({rates})", "eval_time": "170m", "exp_samples": [there]},
        {"expr": f"{rates} > 0", "eval_time": "170m", "exp_samples": []},
    )


def test_a_batch_of_pictures_is_in_time_whatever_it_takes(tmp_path: Path) -> None:
    steady = counter([(70, PER_MINUTE)])
    batch = [answered("POST /sdapi/v1/extra-batch-images", code, steady) for code in ("200", "499")]
    batch += [answered_in_time("POST /sdapi/v1/extra-batch-images", "200", "20.0", "0x70")]
    good = {"labels": f'{{namespace="{queries.NAMESPACE}", slo="latency", kind="photos"}}', "value": 0}
    latency = 'atelier_slo:burn:rate1h{slo="latency"}'
    check(
        tmp_path,
        batch,
        {"expr": f"{latency} + 0", "eval_time": "65m", "exp_samples": [good]},
        {"expr": f"{latency} > 0", "eval_time": "65m", "exp_samples": []},
    )


def test_clients_that_left_after_the_time_have_waited_too_long_and_others_say_nothing(tmp_path: Path) -> None:
    made = []
    for code, in_time, late in (("200", 50, 0), ("499", 30, 10)):
        made.append(answered("POST /generate", code, counter([(70, in_time + late)])))
        made.append(answered_in_time("POST /generate", code, "80.0", counter([(70, in_time)])))
    share = 'atelier_slo:bad:rate5m{slo="latency"} / atelier_slo:total:rate5m{slo="latency"}'
    labels = f'{{namespace="{queries.NAMESPACE}", slo="latency", kind="drawing"}}'
    ten_of_sixty = {"labels": labels, "value": 16.67}
    check(
        tmp_path,
        made,
        {"expr": f"round(100 * {share}, 0.01)", "eval_time": "60m", "exp_samples": [ten_of_sixty]},
    )


def test_nothing_alerts_and_no_rate_is_recorded_without_traffic(tmp_path: Path) -> None:
    made = [answered("POST /generate", code, "7x90") for code in ("200", "500")]
    made += [of_gateway("up", "1x90"), ended("failed", "3x90")]
    made += [series("up", "1x90", f"atelier-{name}") for name in ("generator", "restorer")]
    rates = {"expr": '{__name__=~"atelier_slo:burn:.*"}', "eval_time": "89m", "exp_samples": []}
    alerts = {"expr": "ALERTS", "eval_time": "89m", "exp_samples": []}
    check(tmp_path, made, rates, alerts, groups=(*OBJECTIVES, *CAUSES))


def test_every_alert_on_a_budget_is_tried_here() -> None:
    tried = {f"{problem.alert} critical" for problem in PAGED.values()}
    assert set(queries.burn_alerts()) == tried | {f"{problem.alert} warning" for problem in ALL.values()}
