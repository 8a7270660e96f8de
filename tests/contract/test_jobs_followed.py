"""Jobs that are followed while they run, and canceled: events, estimates, cancellation."""

from __future__ import annotations

import base64
import threading
import time
from typing import Any

import pytest

from atelier_gateway.api.native import job_events
from atelier_gateway.jobs.store import JobStore
from atelier_gateway.jobs.values import JobType
from atelier_runtime.errors import ServiceUnavailable
from tests.contract.job_client import (
    done,
    events_in,
    finished,
    output_names,
    submit,
)
from tests.contract.script import file_of, gradient, opened
from tests.contract.scripted_generator import STEPS
from tests.contract.services import eventually
from tests.contract.stack import Stack

PHOTO = base64.b64encode(file_of(gradient(64, 48))).decode()


def test_events_tell_of_everything(stack: Stack) -> None:
    stack.generator.hold = True
    job = submit(stack, preview_interval_steps=1)
    with stack.client.stream("GET", job["urls"]["events"]) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_in(response)
        name, _, first = next(events)
        assert name == "snapshot" and first["id"] == job["id"]
        rest: list[tuple[str, int, Any]] = []
        while not rest or rest[-1][2].get("step") != STEPS:
            rest.append(next(events))
        stack.generator.hold = False
        rest += list(events)
    names = [name for name, _, _ in rest]
    assert names[-1] == "status" and rest[-1][2]["status"] == "completed"
    assert {"status", "progress", "preview", "output"} >= set(names) >= {"progress", "preview"}
    ids = [number for _, number, _ in rest]
    assert ids == sorted(ids)
    preview = next(data for name, _, data in rest if name == "preview")
    file = base64.b64decode(preview["images"][0].removeprefix("data:image/jpeg;base64,"))
    assert opened(file).size == (32, 24)
    shown = [data["name"] for name, _, data in rest if name == "output"]
    assert "image" in shown and output_names(rest[-1][2]) == ["drawn", "image"]
    progress = [data for name, _, data in rest if name == "progress"]
    assert progress[0]["stage"] == "base" and progress[0]["steps"] == STEPS
    assert all(0 <= each["progress"] <= 1 for each in progress)


def test_events_tell_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GET does; of a job that runs, and has said what it takes, nobody asks the database."""
    asked_of: list[JobType] = []
    typical = JobStore.typical_run_ms

    async def noted(self: JobStore, job_type: JobType) -> int | None:
        asked_of.append(job_type)
        return await typical(self, job_type)

    monkeypatch.setattr(JobStore, "typical_run_ms", noted)
    with Stack(jobs_at_once=1) as stack:
        done(stack)
        stack.generator.hold = True
        job, waiting = submit(stack), submit(stack)
        eventually(lambda: stack.client.get(job["urls"]["self"]).json()["progress"] > 0)
        with stack.client.stream("GET", waiting["urls"]["events"]) as response:
            name, _, first = next(events_in(response))
        assert (name, first["status"], first["queue_position"]) == ("snapshot", "queued", 0)
        assert first["estimated_seconds"] > 0
        stack.client.delete(waiting["urls"]["self"])
        asked_of.clear()
        with stack.client.stream("GET", job["urls"]["events"]) as response:
            events = events_in(response)
            name, _, first = next(events)
            stack.generator.hold = False
            rest = list(events)
        assert name == "snapshot" and first["queue_position"] is None
        left = [first, *(data for name, _, data in rest if name == "progress")]
        assert all(0 <= data["estimated_seconds"] <= 12.5 for data in left), "the generator's estimate"
        assert rest[-1][0] == "status" and rest[-1][2]["estimated_seconds"] is None
        assert asked_of == []


def test_a_job_that_was_not_begun_tells_so_when_it_is(stack: Stack) -> None:
    stack.generator.hold = True
    job = submit(stack)
    with stack.client.stream("GET", job["urls"]["events"]) as response:
        events = events_in(response)
        begun = next(data for name, _, data in events if data.get("status") == "in_progress")
        assert begun["queue_position"] is None and "estimated_seconds" in begun
        progress = next(data for name, _, data in events if name == "progress")
        assert progress["estimated_seconds"] <= 12.5
        stack.generator.hold = False
        list(events)


def test_events_go_on_where_what_is_left_cannot_be_known(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: JobStore, *_: object) -> int:
        raise ServiceUnavailable("The database of jobs cannot be used.")

    stack.restorer.hold = True
    job = submit(stack, type="detect", input={"image": PHOTO})
    monkeypatch.setattr(JobStore, "typical_run_ms", away)
    monkeypatch.setattr(JobStore, "waiting_before", away)
    with stack.client.stream("GET", job["urls"]["events"]) as response:
        events = events_in(response)
        name, _, first = next(events)
        assert name == "snapshot" and first["estimated_seconds"] is None
        stack.restorer.hold = False
        assert list(events)[-1][2]["status"] == "completed"


def test_a_set_without_previews_draws_all_the_same(stack: Stack) -> None:
    stack.generator.colorless = True
    finished_job = finished(stack, submit(stack))
    assert finished_job["status"] == "completed"
    drawn = stack.generator.requests[-1]
    assert not drawn.HasField("preview_interval_steps")


def test_events_go_on_where_a_client_left_off(stack: Stack) -> None:
    job = done(stack)
    with stack.client.stream("GET", job["urls"]["events"]) as response:
        [(name, version, data)] = list(events_in(response))
    assert name == "snapshot" and data["status"] == "completed"
    stack.generator.hold = True
    job = submit(stack)
    eventually(lambda: stack.client.get(job["urls"]["self"]).json()["status"] == "in_progress")
    time.sleep(0.6)  # the first progress is written
    with stack.client.stream("GET", job["urls"]["events"]) as response:
        _, version, _ = next(events_in(response))
    headers = {"Last-Event-ID": str(version)}
    with stack.client.stream("GET", job["urls"]["events"], headers=headers) as response:
        threading.Timer(0.5, lambda: setattr(stack.generator, "hold", False)).start()
        names = [name for name, _, _ in events_in(response)]
    assert "snapshot" not in names and names[-1] == "status"


def test_a_connection_on_which_nothing_happens_is_kept_alive(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_events, "_HEARTBEAT_S", 0.1)
    stack.generator.hold = True
    job = submit(stack)
    with stack.client.stream("GET", job["urls"]["events"]) as response:
        lines = response.iter_lines()
        while next(lines).strip() != ":":  # a comment, which readers of events leave out
            pass
        stack.generator.hold = False
        assert "event: status" in list(lines)


def test_how_long_it_will_take_is_estimated() -> None:
    with Stack(jobs_at_once=1) as stack:
        stack.generator.hold = True
        running, waiting = submit(stack), submit(stack)
        eventually(lambda: stack.client.get(running["urls"]["self"]).json()["progress"] > 0)
        look = stack.client.get(running["urls"]["self"]).json()
        assert (
            0 <= look["estimated_seconds"] <= 12.5 and 0 < look["progress"] <= 1
        )  # the generator's estimate
        assert stack.client.get(waiting["urls"]["self"]).json()["estimated_seconds"] is None, "none has ended"
        stack.generator.hold = False
        finished(stack, waiting)
        stack.generator.hold = True
        running, waiting = submit(stack), submit(stack)
        eventually(lambda: stack.generator.running == 1)
        assert stack.client.get(waiting["urls"]["self"]).json()["estimated_seconds"] > 0
        stack.generator.hold = False


def test_a_slow_reader_of_events_holds_nobody_up(stack: Stack) -> None:
    job = submit(stack)
    with stack.client.stream("GET", job["urls"]["events"]) as response:  # and not read
        assert finished(stack, job)["status"] == "completed"
        assert list(events_in(response))[-1][2]["status"] == "completed"


def test_a_running_job_is_canceled_within_a_step(stack: Stack) -> None:
    stack.generator.hold = True
    job, other = submit(stack), submit(stack)
    eventually(lambda: stack.generator.running >= 2)
    canceled = stack.client.post(job["urls"]["cancel"]).json()
    assert canceled["status"] == "cancelled" and canceled["outputs"] == []
    assert stack.client.get(other["urls"]["self"]).json()["status"] == "in_progress"
    eventually(lambda: stack.generator.cancelled == 1)
    again = stack.client.delete(job["urls"]["self"])
    assert again.status_code == 200 and again.json()["status"] == "cancelled"
    stack.generator.hold = False
    assert finished(stack, other)["status"] == "completed"
    assert stack.client.post(other["urls"]["cancel"]).json()["status"] == "completed"


def test_a_waiting_job_is_canceled_and_never_begun() -> None:
    with Stack(jobs_at_once=1) as stack:
        stack.generator.hold = True
        first, second, third = submit(stack), submit(stack), submit(stack)
        eventually(lambda: stack.generator.running == 1)
        look = stack.client.get(third["urls"]["self"]).json()
        assert look["status"] == "queued" and look["queue_position"] == 1
        assert stack.client.delete(second["urls"]["self"]).json()["status"] == "cancelled"
        assert stack.client.get(third["urls"]["self"]).json()["queue_position"] == 0
        stack.generator.hold = False
        assert [finished(stack, job)["status"] for job in (first, second, third)] == [
            *("completed", "cancelled", "completed")
        ]
        assert stack.client.get(second["urls"]["self"]).json()["attempts"] == 0
