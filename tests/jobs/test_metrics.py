"""What the metrics say of jobs, and that each counts what it says it counts."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from atelier_runtime.errors import InvalidRequest, OutOfMemory, QueueFull
from tests.contract.job_client import PROMPT, done, finished, submit
from tests.contract.services import eventually
from tests.contract.stack import Stack

ENDS = "atelier_job_duration_seconds_count"


def metric(stack: Stack, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    lines = stack.client.get("/metrics").text.splitlines()
    rows = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(row.rpartition(" ")[2]) for row in rows if all(each in row for each in wanted))


def test_ended_waited_and_ran() -> None:
    with Stack() as stack:
        before = {name: metric(stack, name) for name in ("atelier_job_wait_seconds_count",)}
        ended = {"type": "generate", "status": "completed"}
        completed = metric(stack, "atelier_jobs_ended_total", **ended)
        in_time = metric(stack, ENDS, type="generate", outcome="completed")
        took = -metric(stack, "atelier_job_duration_seconds_sum", type="generate", outcome="completed")
        look = done(stack)
        assert metric(stack, "atelier_jobs_ended_total", **ended) == completed + 1
        assert metric(stack, ENDS, type="generate", outcome="completed") == in_time + 1
        took += metric(stack, "atelier_job_duration_seconds_sum", type="generate", outcome="completed")
        begun, last = (datetime.fromisoformat(look[key]) for key in ("created_at", "completed_at"))
        assert took == pytest.approx((last - begun).total_seconds(), abs=0.002)
        assert metric(stack, "atelier_job_wait_seconds_count") == before["atelier_job_wait_seconds_count"] + 1
        assert metric(stack, "atelier_job_run_seconds_count", **ended) >= 1


def test_what_was_put_off_is_no_retry_and_what_failed_is() -> None:
    with Stack() as stack:
        before = metric(stack, "atelier_job_retries_total", type="generate")
        stack.restorer.error = QueueFull("full", retry_after_s=0.1)
        job = submit(stack)
        eventually(lambda: len(stack.restorer.requests) >= 3)
        stack.restorer.error = None
        finished(stack, job)
        assert metric(stack, "atelier_job_retries_total", type="generate") == before
        stack.generator.error = OutOfMemory()
        failed = metric(stack, ENDS, type="generate", outcome="failed")
        assert done(stack)["attempts"] == 3
        assert metric(stack, "atelier_job_retries_total", type="generate") == before + 2
        assert metric(stack, ENDS, type="generate", outcome="failed") == failed + 1, "the service's fault"


def test_a_lease_that_was_lost(tmp_path: Path) -> None:
    with Stack(jobs_lease_seconds=3) as stack:
        lost = metric(stack, "atelier_job_leases_lost_total")
        stack.generator.hold = True
        job = submit(stack)
        eventually(lambda: stack.generator.running == 1)
        with sqlite3.connect(f"{stack.folder}/jobs.db", timeout=20) as rows:  # another gateway has it
            rows.execute("UPDATE jobs SET fence = fence + 1, lease_until = 9e15")
        rows.close()
        eventually(lambda: metric(stack, "atelier_job_leases_lost_total") == lost + 1)
        eventually(lambda: stack.generator.cancelled == 1)
        look: Any = stack.client.get(job["urls"]["self"]).json()
        assert look["status"] == "in_progress", "whoever lost it lets go of it without a word"


def test_a_job_that_asks_for_what_cannot_be_done_is_no_failure_of_ours() -> None:
    with Stack() as stack:
        rejected = metric(stack, ENDS, type="generate", outcome="rejected")
        failed = metric(stack, ENDS, type="generate", outcome="failed")
        stack.generator.error = InvalidRequest.of("width", "is too small for this model set")
        assert done(stack)["status"] == "failed"
        assert metric(stack, ENDS, type="generate", outcome="rejected") == rejected + 1
        assert metric(stack, ENDS, type="generate", outcome="failed") == failed


def test_first_increases_are_seen() -> None:
    with Stack(webhook_secrets="whsec_" + "YWFh" * 8) as stack:
        text = stack.client.get("/metrics").text
    for sample in (
        'atelier_jobs_ended_total{status="failed",type="compare"}',
        'atelier_job_retries_total{type="detect"}',
        'atelier_job_duration_seconds_count{outcome="failed",type="restore"}',
        'atelier_webhook_attempts_total{outcome="given_up"}',
    ):
        assert sample in text
    assert str(PROMPT["prompt"]) not in text
