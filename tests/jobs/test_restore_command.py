"""`atelier-restorer restore FOLDER --server URL`: a folder by a gateway's jobs, on real sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from atelier_restorer.__main__ import main
from atelier_runtime.outcomes import SkipReason
from tests.answering_server import answer, answering_server
from tests.contract.script import file_of
from tests.contract.services import eventually
from tests.contract.stack import Stack
from tests.processes import content, free_port, wait_for
from tests.processes import process as gateway_process
from tests.relay import LOSE, relay

COUNT = 24
RECORD = ".atelier-restored.jsonl"
DONE_BEFORE = "was restored by an earlier run"


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """By the names of the images."""
        return {Path(each["input"]).name: each for each in map(json.loads, self.out.splitlines())}


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def jobs_stack() -> Iterator[Stack]:
    """A gateway that takes on more jobs at once than any of these commands has in flight."""
    with Stack(jobs_at_once=16) as stack:
        yield stack


@pytest.fixture
def stack(jobs_stack: Stack) -> Iterator[Stack]:
    jobs_stack.reset()
    yield jobs_stack
    jobs_stack.restorer.hold = False


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process."""
    monkeypatch.setattr("atelier_restorer.commands.connection.configure_logging", lambda *_: None)

    def run_command(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return run_command


@pytest.fixture
def album(tmp_path: Path) -> Path:
    return make_album(tmp_path / "in", 4)


def make_album(folder: Path, count: int) -> Path:
    """Write images that all differ: 00.png, 01.png and so on."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:02}.png").write_bytes(image(number))
    return folder


def image(number: int) -> bytes:
    return file_of(np.full((24, 32 + number, 3), 200 - number, np.uint8))


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "atelier_restorer", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("ATELIER_")},
    )


def jobs_of(stack: Stack) -> dict[str, dict[str, Any]]:
    """All jobs of the gateway by ID."""
    found: dict[str, dict[str, Any]] = {}
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = stack.client.get("/v1/jobs", params=query).json()
        found |= {job["id"]: job for job in page["data"]}
        if not page["has_more"]:
            return found
        query["before"] = page["next"]


def new_jobs(stack: Stack, before: dict[str, Any]) -> list[dict[str, Any]]:
    return [job for job_id, job in jobs_of(stack).items() if job_id not in before]


def most_at_once(jobs: list[dict[str, Any]]) -> int:
    """How many jobs were accepted and not completed at the worst moment, by the gateway's clock."""
    moments = [(datetime.fromisoformat(job["completed_at"]), -1) for job in jobs]
    moments += [(datetime.fromisoformat(job["created_at"]), 1) for job in jobs]
    counts = np.cumsum([change for _, change in sorted(moments)])
    return int(counts.max())


def left(report: dict[str, Any]) -> dict[str, str]:
    return {Path(entry["input"]).name: entry["reason"] for entry in report["skipped"]}


def test_files_and_reports_are_those_of_the_restorer_itself(
    stack: Stack, run: Run, album: Path, tmp_path: Path
) -> None:
    stack.restorer.faces = [(0.99, True, None), (0.75, False, SkipReason.TOO_SMALL)]
    stack.restorer.result = {"model_set": "tiny"}
    written = {}
    for name, server in (("grpc", f"127.0.0.1:{stack.restorer_port}"), ("jobs", stack.url)):
        out, masks, crops = (tmp_path / name / part for part in ("out", "masks", "crops"))
        flags = ("--save-mask", masks, "--save-crops", crops, "--upscale", 2, "--fidelity", 0.25)
        report = tmp_path / f"{name}.json"
        ran = run("restore", album, out, "--server", server, *flags, "--report", report)
        assert ran.code == 0, ran.err
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file() and path.name != RECORD]
        written[name] = {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files}
    assert written["grpc"] == written["jobs"] and len(written["jobs"]) == 4 * (1 + 1 + 2)
    by_grpc, by_jobs = (
        json.loads((tmp_path / f"{name}.json").read_text().replace(str(tmp_path / name), ""))
        for name in ("grpc", "jobs")
    )
    for theirs, ours in zip(by_grpc["pictures"], by_jobs["pictures"], strict=True):
        for face in theirs["faces"]:  # the HTTP API rounds
            face["box"] = [round(value, 2) for value in face["box"]]
            face["landmarks"] = [[round(value, 2) for value in point] for point in face["landmarks"]]
            for name, digits in (("confidence", 4), ("size_px", 1), ("sharpness", 1), ("roll_degrees", 1)):
                face[name] = None if face[name] is None else pytest.approx(face[name], abs=0.5 * 0.1**digits)
            face["fidelity"] = None if face["fidelity"] is None else pytest.approx(face["fidelity"])
        assert theirs == ours
    assert by_grpc["skipped"] == by_jobs["skipped"] == []
    asked = [[each for each in stack.restorer.requests if each.image.data == (album / "00.png").read_bytes()]]
    [[direct, by_job]] = asked
    assert direct == by_job


def test_no_more_jobs_are_in_flight_than_asked_for(stack: Stack, run: Run, tmp_path: Path) -> None:
    before = jobs_of(stack)
    album = make_album(tmp_path / "in", COUNT)
    ran = run("restore", album, tmp_path / "out", "--server", stack.url, "--concurrency", 3)
    assert ran.code == 0 and f"{COUNT} of {COUNT} images written, 0 failed" in ran.err
    assert len(ran.results) == COUNT and len(list((tmp_path / "out").glob("*.png"))) == COUNT
    jobs = new_jobs(stack, before)
    assert len(jobs) == COUNT == len(stack.restorer.requests)
    assert 1 < most_at_once(jobs) <= 3


def test_a_run_that_was_killed_goes_on_without_sending_what_is_done(
    stack: Stack, run: Run, tmp_path: Path
) -> None:
    before = jobs_of(stack)
    album, out = make_album(tmp_path / "in", COUNT), tmp_path / "out"
    with relay(stack.url) as gateway:
        arguments = ("restore", album, out, "--server", gateway.url, "--resume", "--concurrency", 3)
        with start(*arguments) as process:
            assert process.stdout is not None
            for _ in range(7):
                assert json.loads(process.stdout.readline())["output"]
            stack.restorer.hold = True  # what is in flight now is not done when it is killed
            eventually(lambda: stack.restorer.running == 3)
            process.kill()
        with (out / RECORD).open("ab") as file:
            file.write(b'{"output": "2')  # as if it had been writing
        recorded = (out / RECORD).read_bytes().count(b"options_sha256")
        assert 7 <= recorded <= COUNT - 3
        stack.restorer.hold = False
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


@pytest.mark.parametrize("by_jobs", [True, False])
def test_only_what_has_changed_is_done_again(
    stack: Stack, run: Run, album: Path, tmp_path: Path, by_jobs: bool
) -> None:
    server = stack.url if by_jobs else f"127.0.0.1:{stack.restorer_port}"
    arguments = ("restore", album, tmp_path / "out", "--server", server, "--resume")

    def names(*flags: object) -> list[str]:
        ran = run(*arguments, *flags)
        assert ran.code == 0, ran.err
        return sorted(ran.results)

    everything = sorted(path.name for path in album.iterdir())
    assert names() == everything
    assert names() == []
    (album / "01.png").write_bytes(image(9))
    (tmp_path / "out/02.png").unlink()
    assert names() == ["01.png", "02.png"]
    assert names() == []
    assert names("--fidelity", 0.5) == everything
    assert names("--fidelity", 0.5) == []
    assert names("--fidelity", 0.5, "--save-mask", tmp_path / "masks") == everything
    (tmp_path / "masks/03.png").unlink()
    assert names("--fidelity", 0.5, "--save-mask", tmp_path / "masks") == ["03.png"]


def test_a_run_that_does_not_resume_does_everything_anew(
    stack: Stack, run: Run, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for number in range(2):
        ran = run("restore", album, out, "--server", stack.url)
        assert ran.code == 0 and len(ran.results) == 4
        assert len(stack.restorer.requests) == 4 * (number + 1)
    assert run("restore", album, out, "--server", stack.url, "--resume").results == {}
    directly = ("restore", album, out, "--server", f"127.0.0.1:{stack.restorer_port}")
    assert len(run(*directly, "--fidelity", 1).results) == 4
    assert not (out / RECORD).exists()  # else the next one would take these files for its own
    assert len(run("restore", album, out, "--server", stack.url, "--resume").results) == 4


def test_a_job_that_fails_is_the_failure_of_its_image_and_is_tried_by_the_next_run(
    stack: Stack, run: Run, album: Path, tmp_path: Path
) -> None:
    (album / "02.png").write_bytes(image(2)[:60])
    arguments = ("restore", album, tmp_path / "out", "--server", stack.url, "--resume")
    for expected in (4, 1):
        sent = len(stack.restorer.requests)
        ran = run(*arguments, "--report", tmp_path / "report.json")
        assert ran.code == 1 and ", 1 failed" in ran.err
        assert len(stack.restorer.requests) - sent == expected
        assert ran.results["02.png"]["output"] is None
        assert ran.results["02.png"]["error"].startswith("the image ")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [Path(each["input"]).name for each in report["pictures"]] == ["02.png"]
    (album / "02.png").write_bytes(image(2))
    assert run(*arguments).code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_what_is_in_flight_and_keeps_what_is_done(
    stack: Stack, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    before = jobs_of(stack)
    album, out, report = make_album(tmp_path / "in", 12), tmp_path / "out", tmp_path / "report.json"
    with start(
        "restore", album, out, "--server", stack.url, "--concurrency", 3, "--report", report
    ) as process:
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        stack.restorer.hold = True
        eventually(lambda: stack.restorer.running == 3)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
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


def test_copies_of_an_image_are_one_job(stack: Stack, run: Run, album: Path, tmp_path: Path) -> None:
    before = jobs_of(stack)
    (album / "copy.png").write_bytes(image(2))
    ran = run("restore", album, tmp_path / "out", "--server", stack.url)
    assert ran.code == 0 and len(ran.results) == 5
    assert len(new_jobs(stack, before)) == 4 == len(stack.restorer.requests)
    assert (tmp_path / "out/copy.png").read_bytes() == (tmp_path / "out/02.png").read_bytes()


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
        process = start("restore", album, out, "--server", url, "--concurrency", 3)
        assert process.stdout is not None and json.loads(process.stdout.readline())["output"]
        stack.restorer.hold = True
        eventually(lambda: stack.restorer.running == 3)
        gateway.kill()
        gateway.wait()
    stack.restorer.hold = False
    with process, gateway_process("gateway", tmp_path / "2.log", **settings):
        _, err = process.communicate(timeout=180)
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


def test_shares_are_all_of_a_folder(stack: Stack, run: Run, tmp_path: Path) -> None:
    album, out = make_album(tmp_path / "in", COUNT), tmp_path / "out"
    shares = []
    for index in range(3):
        ran = run("restore", album, out, "--server", stack.url, "--resume", "--share", f"{index}/3")
        assert ran.code == 0, ran.err
        shares.append(set(ran.results))
    assert all(shares) and sum(map(len, shares)) == COUNT == len(set.union(*shares))
    again = run("restore", album, out, "--server", stack.url, "--resume", "--share", "1/3")
    assert again.code == 0 and again.results == {}
    nothing = run(
        "restore", make_album(tmp_path / "one", 1), out, "--server", stack.url, "--share", "0/99999"
    )
    assert nothing.code == 0 and "of the share 0/99999" in nothing.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--server", "ftp://127.0.0.1:1"), "--server must be HOST:PORT or a URL"),
        (("--server", "http://"), "--server must be HOST:PORT or a URL"),
        (("--server", "http://a:b"), "--server must be HOST:PORT or a URL"),
        (("--server", "http://a?b"), "--server must be HOST:PORT or a URL"),
        (("--server", "http://127.0.0.1:1", "--codeformer", "c.pth"), "--codeformer selects networks"),
        (("--share", "3/3"), "--share must be I/N"),
        (("--share", "1"), "--share must be I/N"),
    ],
)
def test_bad_flags(run: Run, album: Path, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    ran = run("restore", album, tmp_path / "out", *flags)
    assert (ran.code, ran.out) == (2, "") and message in ran.err


@pytest.mark.parametrize("flag", [("--resume",), ("--share", "0/1")])
def test_a_single_image_is_not_resumed_or_shared(
    run: Run, album: Path, tmp_path: Path, flag: tuple[str, ...]
) -> None:
    ran = run("restore", album / "00.png", tmp_path / "out.png", *flag)
    assert ran.code == 2 and "for a folder" in ran.err


@pytest.mark.parametrize("command", ["detect", "compare"])
def test_other_commands_take_no_gateway(run: Run, album: Path, tmp_path: Path, command: str) -> None:
    target = [tmp_path / "out"] if command == "compare" else []
    ran = run(command, album / "00.png", *target, "--server", "http://127.0.0.1:1")
    assert ran.code == 2 and f"{command} takes the HOST:PORT of a restorer" in ran.err


def test_a_gateway_that_cannot_be_reached_is_said_at_once(run: Run, album: Path, tmp_path: Path) -> None:
    ran = run("restore", album, tmp_path / "out", "--server", "http://user:secret@127.0.0.1:1/atelier")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(
        "atelier-restorer: The gateway at http://127.0.0.1:1/atelier cannot be reached: "
    )
    assert ran.err.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (answer("404 Not Found", b"<html>"), "answered 404 Not Found."),
        (answer("200 OK", b"<html>"), "did not answer with a JSON object."),
        (answer("200 OK", b'{"object": "other"}'), "something else"),
        (answer("301 Moved", headers={"Location": "https://a"}), "answered 301 Moved, to https://a."),
    ],
)
def test_a_server_that_is_no_gateway_is_said_at_once(
    run: Run, album: Path, tmp_path: Path, said: bytes, message: str
) -> None:
    with answering_server() as server:
        server.answers = [lambda _: said]
        ran = run("restore", album, tmp_path / "out", "--server", server.url)
    assert (ran.code, ran.out) == (1, "")
    assert f"The server at {server.url} is no gateway that takes jobs: " in ran.err and message in ran.err
    assert ran.err.count("\n") == 1 and not (tmp_path / "out").exists()
