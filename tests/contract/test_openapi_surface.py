"""What clients can rely on changes only when it is meant to."""

from __future__ import annotations

from tests.contract.openapi_surface import COPY, current


def test_the_surface_is_that_of_the_committed_copy() -> None:
    committed = COPY.read_text().splitlines()
    assert current() == committed, "see openapi_surface.py, if this change is meant"


def test_whatever_reads_a_body_may_find_no_room_for_it() -> None:
    lines = COPY.read_text().splitlines()
    bodies = {" ".join(line.split()[:2]) for line in lines if " body " in line and "/sdapi/" not in line}
    full = {" ".join(line.split()[:2]) for line in lines if " 429 application/json" in line}
    assert bodies and bodies - full == set()


def test_the_copy_names_every_path() -> None:
    paths = {line.split()[1].rstrip(":") for line in COPY.read_text().splitlines() if line[0].isupper()}
    photo = {"/restore", "/detect", "/compare"}
    job = "/v1/jobs/{job_id}"
    jobs = {"/v1/jobs", job, *(f"{job}/{part}" for part in ("cancel", "expire", "events", "outputs/{name}"))}
    images = {"/v1/images/generations", "/v1/images/edits", "/v1/images/variations"}
    openai = {*images, "/v1/models", "/v1/models/{model}"}
    own = {"/", "/generate", "/health", "/livez", "/readyz", "/v1/inspect", *photo, *jobs}
    around = {"/internal/ping", "/config", "/queue/status", "/login"}
    automatic1111 = {path for path in paths if path.startswith("/sdapi/v1/")}
    assert len(automatic1111) == 31
    assert paths == {*own, *openai, *around, *automatic1111}
