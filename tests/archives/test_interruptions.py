"""Runs that are killed or interrupted, and gateways that are full, away, forgetful or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.answering_server import answer
from tests.archives.runs import (
    COUNT,
    DONE_BEFORE,
    RECORD,
    Run,
    jobs_of,
    left,
    make_album,
    new_jobs,
)
from tests.contract.services import eventually
from tests.contract.stack import Stack
from tests.processes import content, free_port, wait_for
from tests.processes import process as gateway_process
from tests.relay import LOSE, relay


def test_a_run_that_was_killed_goes_on_without_sending_what_is_done(
    stack: Stack, run: Run, tmp_path: Path
) -> None:
    before = jobs_of(stack)
    album, out = make_album(tmp_path / "in", COUNT), tmp_path / "out"
    with relay(stack.url) as gateway:
        arguments = ("restore", album, out, "--server", gateway.url, "--resume", "--concurrency", 3)
        stack.restorer.held_after = 7
        with start(*arguments) as process:
            try:
                assert process.stdout is not None
                for _ in range(7):
                    assert json.loads(process.stdout.readline())["output"]
                eventually(lambda: stack.restorer.running == 3)
            finally:
                process.kill()
        with (out / RECORD).open("ab") as file:
            file.write(b'{"output": "2')  # as if it had been writing
        recorded = (out / RECORD).read_bytes().count(b"options_sha256")
        assert recorded == 7
        stack.restorer.held_after = None
        sent = gateway.count("POST /v1/jobs")
        ran = run(*arguments, "--report", tmp_path / "report.json")
        assert ran.code == 0, ran.err
        assert gateway.count("POST /v1/jobs") - sent == COUNT - recorded
    assert f"{COUNT - recorded} of {COUNT} images written, 0 failed, {recorded} restored before" in ran.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(left(report).values()) == [DONE_BEFORE] * recorded
    assert {Path(each["input"]).name for each in report["pictures"]} | set(left(report)) == {
        path.name for path in album.iterdir()
    }
    # what was in flight is found again rather than done twice
    assert len(new_jobs(stack, before)) == COUNT == len(stack.restorer.requests)


# A shell that runs the tests in the background has SIGINT ignored, and so would this process.
_RUN = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from atelier_restorer.__main__ import main; sys.exit(main(sys.argv[1:]))"
)


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("ATELIER_")},
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_what_is_in_flight_and_keeps_what_is_done(
    stack: Stack, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    before = jobs_of(stack)
    album, out, report = make_album(tmp_path / "in", 12), tmp_path / "out", tmp_path / "report.json"
    stack.restorer.held_after = 4
    arguments = ("restore", album, out, "--server", stack.url, "--concurrency", 3, "--report", report)
    with start(*arguments) as process:
        try:
            assert process.stdout is not None
            for _ in range(4):
                line = process.stdout.readline()
                assert line, process.communicate(timeout=60)[1]
                assert json.loads(line)["output"]
            eventually(lambda: stack.restorer.running == 3)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == code, err
    eventually(lambda: stack.restorer.running == 0)
    assert stack.restorer.cancelled == 3
    jobs = new_jobs(stack, before)
    written = [path.name for path in out.glob("*.png")]
    states = [job["status"] for job in jobs]
    assert states.count("cancelled") == 3 and states.count("completed") == len(states) - 3 == len(written)
    reported = json.loads(report.read_text())
    assert sorted(Path(each["input"]).name for each in reported["pictures"]) == sorted(written)
    assert len(left(reported)) == 12 - len(written)
    assert all(why.startswith("not attempted: interrupted") for why in left(reported).values())


def test_a_gateway_that_is_killed_and_comes_back_loses_nothing(stack: Stack, tmp_path: Path) -> None:
    album, out, port = make_album(tmp_path / "in", 12), tmp_path / "out", free_port()
    settings = {
        "PORT": port,
        "GENERATOR": f"127.0.0.1:{stack.generator_port}",
        "RESTORER": f"127.0.0.1:{stack.restorer_port}",
        "JOBS_DATABASE": f"sqlite:///{tmp_path}/jobs.db",
        "JOBS_FILES": f"file:{tmp_path}/files",
        "JOBS_LEASE_SECONDS": 3,  # after which the jobs of the one that was killed are begun again
    }
    url = f"http://127.0.0.1:{port}"
    with gateway_process("gateway", tmp_path / "1.log", **settings) as gateway:
        wait_for(lambda: b"ready" in content(f"{url}/readyz"), 60)
        stack.restorer.held_after = 2
        process = start("restore", album, out, "--server", url, "--concurrency", 3)
        try:
            assert process.stdout is not None and json.loads(process.stdout.readline())["output"]
            eventually(lambda: stack.restorer.running == 3)
        except BaseException:
            process.kill()
            raise
        gateway.kill()
        gateway.wait()
    stack.restorer.held_after = None
    with process, gateway_process("gateway", tmp_path / "2.log", **settings):
        try:
            _, err = process.communicate(timeout=180)
        finally:
            process.kill()
    assert process.returncode == 0 and "12 of 12 images written, 0 failed" in err
    assert len(list(out.glob("*.png"))) == 12


def test_a_gateway_that_is_full_is_waited_for(run: Run, tmp_path: Path) -> None:
    album = make_album(tmp_path / "in", 4)
    with Stack(jobs_at_once=1, jobs_waiting=1) as small, relay(small.url) as gateway:
        small.restorer.hold = True

        def release(line: str) -> None:
            if gateway.count("POST /v1/jobs") == 4:  # one runs, one waits, two are refused
                small.restorer.hold = False

        gateway.interfere = release
        ran = run("restore", album, tmp_path / "out", "--server", gateway.url)
        assert ran.code == 0 and "4 of 4 images written" in ran.err
        assert gateway.count("POST /v1/jobs") > 4 and len(jobs_of(small)) == 4


def test_a_request_whose_answer_was_lost_makes_no_second_job(
    stack: Stack, run: Run, album: Path, tmp_path: Path
) -> None:
    before = jobs_of(stack)
    with relay(stack.url) as gateway:
        seen: set[str] = set()

        def lose_the_first(line: str) -> bytes | None:
            kind = line.split("?")[0].rpartition("/")[2][:5] + line[:4]
            is_first = kind not in seen and not line.startswith("GET /v1/jobs?")
            seen.add(kind)
            return LOSE if is_first else None

        gateway.interfere = lose_the_first
        ran = run("restore", album, tmp_path / "out", "--server", gateway.url, "--concurrency", 1)
        assert ran.code == 0, ran.err
        assert gateway.count("POST /v1/jobs") == 5 and gateway.count("GET /v1/jobs/") > 4
    assert len(new_jobs(stack, before)) == 4 == len(stack.restorer.requests)


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("part", ["/outputs/image", ""])
def test_a_job_that_has_expired_is_submitted_again(
    stack: Stack, run: Run, album: Path, tmp_path: Path, status: int, part: str
) -> None:
    problem: dict[str, Any] = {
        "code": "gone" if status == 410 else "not_found",
        "message": "It has expired.",
        "fields": [],
    }
    body = json.dumps({"success": False, "error": problem}).encode()
    expired: list[str] = []
    with relay(stack.url) as gateway:

        def expire_the_first(line: str) -> bytes | None:
            job = line.removeprefix("GET /v1/jobs/").partition("/")[0]
            if (
                not line.startswith("GET /v1/jobs/")
                or not line.endswith(part)
                or (expired and job not in expired)
            ):
                return None
            expired.append(job)
            return answer(f"{status} x", body, {"Content_Type": "application/json"})

        gateway.interfere = expire_the_first
        ran = run("restore", album, tmp_path / "out", "--server", gateway.url, "--concurrency", 1)
        assert ran.code == 0, ran.err
        assert gateway.count("POST /v1/jobs") == 5 and len(expired) == 1


def test_a_gateway_that_stays_away_ends_the_run(stack: Stack, run: Run, album: Path, tmp_path: Path) -> None:
    with relay(stack.url) as gateway:
        gateway.interfere = lambda line: (
            answer("503 Away", headers={"Retry_After": "1"}) if gateway.count("POST") > 2 else None
        )
        flags = ("--concurrency", 1, "--timeout", 2, "--report", tmp_path / "report.json")
        ran = run("restore", album, tmp_path / "out", "--server", gateway.url, *flags)
    assert ran.code == 1 and "2 of 4 images written, 1 failed, 1 not attempted" in ran.err
    assert f"{gateway.url}/v1/jobs answered 503 Away" in ran.results["02.png"]["error"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert left(report) == {"03.png": "not attempted: the restorer is not available"}


def test_an_image_that_takes_too_long_is_canceled(
    stack: Stack, run: Run, album: Path, tmp_path: Path
) -> None:
    stack.restorer.hold = True
    ran = run("restore", album / "00.png", tmp_path / "out.png", "--server", stack.url, "--timeout", 0.5)
    assert ran.code == 1 and "did not finish within 0.5 s" in ran.results["00.png"]["error"]
    eventually(lambda: stack.restorer.cancelled == 1)
