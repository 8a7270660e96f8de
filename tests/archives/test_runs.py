"""`atelier-restorer restore FOLDER --server URL`: a folder by a gateway's jobs, on real sockets."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier_runtime.outcomes import SkipReason
from tests.archives.runs import (
    COUNT,
    RECORD,
    Run,
    image,
    jobs_of,
    make_album,
    new_jobs,
)
from tests.contract.stack import Stack


def most_at_once(jobs: list[dict[str, Any]]) -> int:
    """How many jobs were accepted and not completed at the worst moment, by the gateway's clock."""
    moments = [(datetime.fromisoformat(job["completed_at"]), -1) for job in jobs]
    moments += [(datetime.fromisoformat(job["created_at"]), 1) for job in jobs]
    counts = np.cumsum([change for _, change in sorted(moments)])
    return int(counts.max())


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


def test_copies_of_an_image_are_one_job(stack: Stack, run: Run, album: Path, tmp_path: Path) -> None:
    before = jobs_of(stack)
    (album / "copy.png").write_bytes(image(2))
    ran = run("restore", album, tmp_path / "out", "--server", stack.url)
    assert ran.code == 0 and len(ran.results) == 5
    assert len(new_jobs(stack, before)) == 4 == len(stack.restorer.requests)
    assert (tmp_path / "out/copy.png").read_bytes() == (tmp_path / "out/02.png").read_bytes()


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
