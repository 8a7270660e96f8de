"""API keys: who is let in, what each may do, how much of it."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from atelier_gateway.access.required import Requirement, required_of
from atelier_runtime.api_keys import Scope
from atelier_runtime.errors import InternalError
from tests.contract.audit import audit_in
from tests.contract.automatic1111 import PICTURE
from tests.contract.openai_client import sdk
from tests.contract.problem_body import problem
from tests.contract.services import eventually
from tests.contract.stack import Stack
from tests.keys import BOTH, bearer, key, secret_of, write_keys

GENERATE = {"prompt": "a red apple", "width": 256, "height": 256}
JOB = {"type": "generate", "input": GENERATE}

KEYS = (
    key("app"),
    key("other"),
    key("artist", frozenset({Scope.GENERATE})),
    key("photos", frozenset({Scope.RESTORE})),
    key("reader", frozenset()),
    key("admin", frozenset({*BOTH, Scope.ALL_JOBS, Scope.METRICS})),
    key("old", expires=datetime.now(UTC) - timedelta(days=1)),
    key("few", requests_per_minute=2),
    key("small", pixels_per_day=3 * 256 * 256),
    key("one", jobs_at_once=1),
)


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    write_keys(path, *KEYS)
    return path


@pytest.fixture(scope="module")
def guarded_stack(keys_file: Path) -> Iterator[Stack]:
    with Stack(api_keys=str(keys_file)) as stack:
        yield stack


@pytest.fixture
def guarded(guarded_stack: Stack) -> Stack:
    guarded_stack.reset()
    return guarded_stack


def generate(stack: Stack, name: str, **body: Any) -> httpx.Response:
    return stack.client.post("/generate", json=GENERATE | body, headers=bearer(name))


def submit(stack: Stack, name: str, **body: Any) -> httpx.Response:
    return stack.client.post("/v1/jobs", json=JOB | body, headers=bearer(name))


PRESENTED = {
    "bearer": {"Authorization": f"Bearer {secret_of('app')}"},
    "bearer in lower case": {"Authorization": f"bearer   {secret_of('app')}"},
    "the key alone": {"Authorization": secret_of("app")},
    "x-api-key": {"X-API-Key": secret_of("app")},
    "x-api-key beside what a proxy wants": {"X-API-Key": secret_of("app"), "Authorization": "Basic cDpw"},
    "basic": {"Authorization": "Basic " + base64.b64encode(b"me:" + secret_of("app").encode()).decode()},
    "basic without a password": {
        "Authorization": "Basic " + base64.b64encode(secret_of("app").encode() + b":").decode()
    },
}
REFUSED = {
    "nothing": {},
    "an empty bearer": {"Authorization": "Bearer"},
    "an empty basic": {"Authorization": "Basic Og=="},
    "an unknown key": {"Authorization": "Bearer sk-0123456789"},
    "a digest instead of a key": {"X-API-Key": KEYS[0].digest.hex()},
    "another scheme": {"Authorization": f"Digest {secret_of('app')}"},
    "basic that is not base64": {"Authorization": "Basic ???"},
    "an expired key": bearer("old"),
}


@pytest.mark.parametrize("headers", PRESENTED.values(), ids=PRESENTED)
def test_a_key_lets_its_client_in_however_it_is_sent(guarded: Stack, headers: dict[str, str]) -> None:
    assert guarded.client.post("/generate", json=GENERATE, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
def test_nobody_else_is_let_in_in_any_dialect(guarded: Stack, headers: dict[str, str]) -> None:
    native = guarded.client.post("/generate", json=GENERATE, headers=headers)
    error = problem(native, 401, "unauthenticated")
    assert native.headers["www-authenticate"] == 'Bearer realm="Atelier"'
    told = guarded.client.post("/v1/images/generations", json={"prompt": "x"}, headers=headers)
    assert told.status_code == 401 and told.headers["www-authenticate"] == 'Bearer realm="Atelier"'
    assert told.json()["error"] == {
        "message": error["message"],
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    web_ui = guarded.client.post("/sdapi/v1/txt2img", json={"prompt": "x"}, headers=headers)
    assert web_ui.status_code == 401 and web_ui.headers["www-authenticate"] == 'Basic realm="Atelier"'
    assert set(web_ui.json()) == {"error", "detail", "body", "errors"}
    assert guarded.generator.requests == []
    for sent in headers.values():
        assert sent not in native.text + told.text + web_ui.text or not sent


def test_the_openai_sdk_knows_what_it_lacks(guarded: Stack) -> None:
    def draw(api_key: str) -> openai.types.ImagesResponse:
        with sdk(guarded.url, api_key=api_key) as client:
            return client.images.generate(prompt="a red apple", size="256x256")

    assert draw(secret_of("artist")).data
    with pytest.raises(openai.AuthenticationError, match="not known"):
        draw("sk-anything")
    with pytest.raises(openai.PermissionDeniedError, match="scope 'generate'"):
        draw(secret_of("photos"))


def test_every_route_that_does_work_requires_a_scope(guarded: Stack) -> None:
    document = guarded.client.get("/openapi.json").json()
    checked = 0
    for path, operations in document["paths"].items():
        for method in operations:
            required = required_of(method.upper(), path.replace("{job_id}", "x").replace("{name}", "image"))
            if method == "post" and path in WORK:
                assert isinstance(required, Scope), path
                checked += 1
            elif path not in OPEN:
                assert required is not Requirement.NOTHING, path
    assert checked == len(WORK)


WORK = {
    *("/generate", "/restore", "/detect", "/compare"),
    *("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"),
    *("/sdapi/v1/txt2img", "/sdapi/v1/img2img"),
    *("/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images"),
}
OPEN = {"/", "/livez", "/readyz", "/internal/ping"}


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/docs", "/openapi.json", "/internal/ping"])
def test_what_tells_nothing_needs_no_key(guarded: Stack, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/jobs",
        "/sdapi/v1/sd-models",
        "/sdapi/v1/options",
        "/nothing",
        "/docs/x",
    ],
)
def test_what_is_loaded_and_what_runs_does(guarded: Stack, path: str) -> None:
    assert guarded.client.get(path).status_code == 401


def test_the_openapi_document_says_how_a_key_is_presented(guarded: Stack, stack: Stack) -> None:
    document = guarded.client.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"Bearer", "Header", "Basic"}
    assert {name for each in document["security"] for name in each} == {"Bearer", "Header", "Basic"}
    assert "security" not in stack.client.get("/openapi.json").json(), "where there are none"


def test_a_scope_is_for_what_it_says(guarded: Stack) -> None:
    error = problem(
        guarded.client.post("/restore", json={"image": PICTURE}, headers=bearer("artist")), 403, "forbidden"
    )
    assert "'restore'" in error["message"] and "'artist' has: generate" in error["message"]
    problem(generate(guarded, "photos"), 403, "forbidden")
    problem(submit(guarded, "photos"), 403, "forbidden")
    problem(submit(guarded, "artist", type="detect", input={"image": PICTURE}), 403, "forbidden")
    assert submit(guarded, "photos", type="detect", input={"image": PICTURE}).status_code == 202
    refused = guarded.client.post(
        "/sdapi/v1/extra-single-image", json={"image": PICTURE}, headers=bearer("artist")
    )
    assert refused.status_code == 403
    problem(guarded.client.get("/metrics", headers=bearer("app")), 403, "forbidden")
    assert guarded.client.get("/metrics", headers=bearer("admin")).status_code == 200


def test_jobs_are_seen_by_their_key_and_by_those_who_may_see_all(guarded: Stack) -> None:
    job = submit(guarded, "app").json()
    path = f"/v1/jobs/{job['id']}"
    for method, suffix in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("POST", "/expire"),
        ("GET", "/events"),
    ):
        problem(guarded.client.request(method, path + suffix, headers=bearer("other")), 404, "not_found")
    eventually(lambda: guarded.client.get(path, headers=bearer("app")).json()["status"] == "completed")
    output = f"{path}/outputs/image"
    assert guarded.client.get(output, headers=bearer("app")).status_code == 200
    problem(guarded.client.get(output, headers=bearer("other")), 404, "not_found")
    problem(guarded.client.get(output), 404, "not_found")  # the address is no secret of this job's
    listed = {
        name: guarded.client.get("/v1/jobs", headers=bearer(name)).json()["data"]
        for name in ("other", "admin")
    }
    assert job["id"] not in [each["id"] for each in listed["other"]]
    assert job["id"] in [each["id"] for each in listed["admin"]]
    reference = {"image": {"job": job["id"], "output": "image"}}
    problem(submit(guarded, "other", type="detect", input=reference), 422, "invalid_request")
    assert guarded.client.post(f"{path}/expire", headers=bearer("admin")).status_code == 204
    assert guarded.client.get(path, headers=bearer("app")).status_code == 410


def test_an_address_of_a_picture_needs_no_key(guarded: Stack) -> None:
    body = {"prompt": "x", "size": "256x256", "response_format": "url"}
    answer = guarded.client.post("/v1/images/generations", json=body, headers=bearer("app")).json()
    [image] = answer["data"]
    assert guarded.client.get(image["url"]).status_code == 200
    assert guarded.client.get(image["url"], headers=bearer("other")).status_code == 200
    job = image["url"].partition("/outputs/")[0]
    assert guarded.client.get(job).status_code == 401
    problem(guarded.client.get(job, headers=bearer("app")), 404, "not_found")


def test_requests_a_minute(keys_file: Path) -> None:
    with Stack(api_keys=str(keys_file)) as stack:
        answers = [generate(stack, "few")]
        assert answers[0].headers["ratelimit-policy"] == '"requests";q=2;w=60'
        assert answers[0].headers["ratelimit"].startswith('"requests";r=1;t=')
        polled = stack.client.get("/v1/jobs", headers=bearer("few"))
        assert "ratelimit" not in polled.headers, "only what asks for work counts"
        while answers[-1].status_code == 200:
            answers.append(generate(stack, "few"))
        assert 3 <= len(answers) <= 5, "two in a minute of the clock, which may have ended in between"
        refused = answers[-1]
        assert "2 requests a minute" in problem(refused, 429, "rate_limited")["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')
        assert generate(stack, "app").status_code == 200, "another key has its own"


def test_pixels_a_day_in_every_dialect_and_for_jobs(keys_file: Path) -> None:
    with Stack(api_keys=str(keys_file)) as stack:
        assert '"pixels";q=196608;w=86400' in generate(stack, "small").headers["ratelimit-policy"]
        error = problem(generate(stack, "small", num_images=4), 403, "forbidden")
        assert "196608 pixels a day, and this is 262144" in error["message"], "at no time"
        stack.generator.error = InternalError()
        assert generate(stack, "small").status_code == 500
        stack.generator.error = None
        drawn = stack.client.post(
            "/v1/images/generations", json={"prompt": "x", "size": "256x256"}, headers=bearer("small")
        )
        assert drawn.status_code == 200 and drawn.headers["ratelimit"].startswith('"pixels";r=65536;')
        assert submit(stack, "small").status_code == 202, "what failed was given back"
        problem(submit(stack, "small"), 429, "rate_limited")
        refused = stack.client.post(
            "/sdapi/v1/txt2img", json={"prompt": "x", "width": 256, "height": 256}, headers=bearer("small")
        )
        assert refused.status_code == 429
        problem(
            stack.client.post("/restore", json={"image": PICTURE}, headers=bearer("small")),
            429,
            "rate_limited",
        )


def test_jobs_at_once(guarded: Stack) -> None:
    guarded.generator.seconds = 0.3
    ids = [submit(guarded, "one").json()["id"] for _ in range(3)]
    running: list[int] = []

    def ended() -> bool:
        jobs = [guarded.client.get(f"/v1/jobs/{each}", headers=bearer("one")).json() for each in ids]
        running.append(sum(job["status"] == "in_progress" for job in jobs))
        return all(job["status"] == "completed" for job in jobs)

    eventually(ended)
    assert max(running) == 1


def test_keys_come_and_go_while_the_gateway_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, key("app"))
    with Stack(api_keys=str(path)) as stack:
        assert generate(stack, "app").status_code == 200
        write_keys(path, key("other"))
        eventually(lambda: generate(stack, "app").status_code == 401)
        assert generate(stack, "other").status_code == 200
        path.write_text("[other]\nsha256 = 'short'\n", encoding="utf-8")
        with caplog.at_level(logging.ERROR):
            eventually(
                lambda: generate(stack, "other").status_code == 200 and "stay as they were" in caplog.text
            )
        path.unlink()
        assert generate(stack, "other").status_code == 200, "who removes it by mistake locks nobody out"


def test_keys_that_callers_may_do_without(keys_file: Path) -> None:
    with Stack(api_keys=str(keys_file), anonymous="allow") as stack:
        assert stack.client.post("/generate", json=GENERATE).status_code == 200
        assert generate(stack, "app").status_code == 200
        wrong = stack.client.post("/generate", json=GENERATE, headers={"X-API-Key": "wrong"})
        assert wrong.status_code == 401, "a wrong key is a mistake that somebody wants to know of"


def test_a_line_for_each_request_says_who_and_what_and_not_the_key(
    guarded: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="atelier_gateway.audit"):
        generate(guarded, "app", prompt="a secret wish")
        guarded.client.post("/generate", json=GENERATE, headers={"X-API-Key": "atelier_stolen"})
        guarded.client.get("/v1/jobs", headers=bearer("app"))
        eventually(lambda: len(audit_in(caplog)) == 3)
    drawn, refused, listed = audit_in(caplog)
    assert drawn["caller"] == "key app" and drawn["path"] == "/generate" and drawn["code"] == "200"
    assert drawn["pixels"] == 256 * 256 and drawn["received_bytes"] > 50 and drawn["sent_bytes"] > 1000
    assert (refused["caller"], refused["path"]) == ("address 127.0.0.1", "/generate")
    assert refused["code"] == "401"
    assert (listed["caller"], listed["method"], listed["path"]) == ("key app", "GET", "/v1/jobs")
    everything = " ".join(str(vars(record)) for record in caplog.records)
    assert (
        secret_of("app") not in everything and "stolen" not in everything and "secret wish" not in everything
    )
    text = guarded.client.get("/metrics", headers=bearer("admin")).text
    assert 'atelier_key_requests_total{code="200",key="app"}' in text
    assert 'atelier_key_requests_total{code="401",key="none"}' in text
    assert "stolen" not in text and secret_of("app") not in text


def test_no_way_around_a_scope(guarded: Stack) -> None:
    """Whatever routes take for one of their paths, the gate does too."""
    for path in sorted(WORK | {"/metrics", "/v1/jobs", "/txt2img", "/api/generate"}):
        method = "GET" if path == "/metrics" else "POST"
        for strange in (f"{path}%0A", f"{path}/%0A", f"/{path}", f"{path}//", f"{path}%00", f"{path}%20"):
            url = guarded.url + strange
            answer = guarded.client.request(method, url, json={"prompt": "x"}, headers=bearer("old"))
            assert answer.status_code in (401, 404), strange
            reader = guarded.client.request(method, url, json={"prompt": "x"}, headers=bearer("reader"))
            assert reader.status_code in (403, 404) or path == "/v1/jobs", strange
    assert guarded.generator.requests == [] == guarded.restorer.requests


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Basic é".encode()}, 401),
        ({"Authorization": "Bearer é".encode()}, 401),
        ({"X-API-Key": b"\xff\xfe"}, 401),
        ({"Origin": b"http://["}, 403),
        ({"Origin": "é".encode()}, 403),
        ({"X-Forwarded-For": "é".encode(), **{k: v.encode() for k, v in bearer("app").items()}}, 200),
    ],
)
def test_strange_headers_are_nobodys_internal_error(
    guarded: Stack, headers: dict[str, bytes], status: int
) -> None:
    given = [(name.encode(), value) for name, value in headers.items()]
    assert guarded.client.post("/generate", json=GENERATE, headers=given).status_code == status


def test_a_refusal_says_whose_key_it_was(guarded: Stack, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "atelier_gateway.audit"):
        generate(guarded, "photos")
        eventually(lambda: len(audit_in(caplog)) == 1)
    [line] = audit_in(caplog)
    assert (line["caller"], line["path"], line["code"]) == ("key photos", "/generate", "403")


def test_a_key_may_end_its_own_jobs_with_addresses(guarded: Stack) -> None:
    body = {"prompt": "x", "size": "256x256", "response_format": "url"}
    answer = guarded.client.post("/v1/images/generations", json=body, headers=bearer("app")).json()
    address = answer["data"][0]["url"]
    job = address.partition("/outputs/")[0]
    problem(guarded.client.post(f"{job}/expire", headers=bearer("other")), 404, "not_found")
    assert guarded.client.get(address).status_code == 200
    assert guarded.client.post(f"{job}/expire", headers=bearer("app")).status_code == 204
    assert guarded.client.get(address).status_code == 410
