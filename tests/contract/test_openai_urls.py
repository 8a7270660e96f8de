"""Images that are handed out by their addresses."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from atelier_runtime.errors import FieldViolation, InvalidRequest, OutOfMemory, QueueFull
from tests.contract.openai_client import EDITS, GENERATIONS, IMAGE, SMALL, answer, generate, refused, sdk
from tests.contract.raw_http import connect
from tests.contract.script import opened
from tests.contract.services import eventually
from tests.contract.stack import Stack

DALL_E = {"model": "dall-e-3"}


def jobs_of(stack: Stack) -> list[str]:
    """The statuses of all jobs. Those of addresses are shown to nobody."""
    return [status for (status,) in in_database(stack, "SELECT status FROM jobs")]


def in_database(stack: Stack, statement: str) -> list[Any]:
    with closing(sqlite3.connect(f"{stack.folder}/jobs.db", timeout=20)) as database, database:
        return database.execute(statement).fetchall()


def test_an_address_serves_the_file(stack: Stack) -> None:
    stack.generator.result = {"prompt_tokens": 7}
    response = generate(stack, response_format="url", n=2, seed=5, user="u", output_format="webp")
    content = answer(response)
    assert response.headers["x-atelier-ignored"] == "user"
    assert response.headers["x-atelier-model"] == content["model"] == "demo"
    assert [each["seed"] for each in content["data"]] == [5, 6]
    assert content["usage"]["input_tokens"] == 7 and content["usage"]["output_tokens"] == 512
    assert len({each["url"] for each in content["data"]}) == 2
    for each in content["data"]:
        assert set(each) == {
            *("url", "revised_prompt", "seed", "faces"),
            *("face_restoration_applied", "face_restoration_reason"),
        }
        assert len(each["faces"]) == 1 and each["face_restoration_applied"] is True
        assert each["url"].startswith(stack.url)
        file = stack.client.get(each["url"])
        assert file.headers["content-type"] == "image/webp" and opened(file.content).size == (256, 256)


@pytest.mark.parametrize("model", ["dall-e-2", "dall-e-3"])
def test_names_of_models_whose_clients_expect_addresses(stack: Stack, model: str) -> None:
    assert set(answer(generate(stack, model=model))["data"][0]) >= {"url"}
    assert set(answer(generate(stack, model=model, response_format="b64_json"))["data"][0]) >= {"b64_json"}
    assert generate(stack, model=model, stream=True).text.endswith("data: [DONE]\n\n")


def test_an_address_cannot_be_guessed_and_expires(stack: Stack) -> None:
    url = answer(generate(stack, response_format="url"))["data"][0]["url"]
    job_id = urlsplit(url).path.split("/")[3]
    assert len(job_id) == len("job_") + 12 + 32  # 128 random bits
    [(expires_at,)] = in_database(stack, f"SELECT expires_at FROM jobs WHERE id = '{job_id}'")
    assert expires_at is not None


def test_nothing_else_of_an_address_is_shown(stack: Stack) -> None:
    url = answer(generate(stack, response_format="url"))["data"][0]["url"]
    job = urlsplit(url).path.partition("/outputs/")[0]
    assert job.split("/")[3] not in stack.client.get("/v1/jobs").text
    for method, path in (
        *(("GET", job), ("HEAD", job), ("DELETE", job), ("POST", f"{job}/cancel")),
        *(("GET", f"{job}/events"), ("GET", f"{job}/outputs/drawn")),
    ):
        assert stack.client.request(method, path).status_code == 404, (method, path)
    other = {"prompt": "x", "image": {"job": job.split("/")[3], "output": "image"}}
    refusal = stack.client.post("/v1/jobs", json={"type": "generate", "input": other})
    assert refusal.status_code == 422 and "no job of this ID" in refusal.text
    assert stack.client.get(url).status_code == stack.client.head(url).status_code == 200


def test_copies_are_not_kept_longer_than_the_file() -> None:
    with Stack(jobs_ttl_seconds=90) as stack:
        url = answer(generate(stack, response_format="url"))["data"][0]["url"]
        cached = stack.client.get(url).headers["cache-control"]
        assert 0 <= int(cached.removeprefix("private, max-age=").removesuffix(", immutable")) <= 90


def test_the_files_are_the_same_as_in_the_answer(stack: Stack) -> None:
    client = sdk(stack.url)
    urls = client.images.generate(
        prompt="x", size="256x256", response_format="url", extra_body={"seed": 3, "upscale": 2}
    )
    assert urls.data is not None and urls.data[0].url is not None and urls.data[0].b64_json is None
    assert opened(stack.client.get(urls.data[0].url).content).size == (512, 512)
    assert urls.size == "512x512" and urls.usage is not None and urls.usage.output_tokens == 32 * 32


@pytest.mark.parametrize("quality", ["low", "max"])
def test_qualities_and_extensions_reach_the_job(stack: Stack, quality: str) -> None:
    answer(generate(stack, response_format="url", quality=quality, size="512x512", extra_body={"seed": 9}))
    request = stack.generator.requests[-1]
    assert request.num_inference_steps == {"low": 15, "max": 60}[quality]
    assert request.HasField("hires_pass") is (quality == "max") and request.seed == 9


def test_edits_have_addresses_too(stack: Stack) -> None:
    form = {"prompt": "x", "size": "256x256", "response_format": "url"}
    content = answer(stack.client.post(EDITS, data=form, files={"image": ("a.png", IMAGE, "image/png")}))
    assert stack.client.get(content["data"][0]["url"]).status_code == 200
    assert content["usage"]["input_tokens_details"]["image_tokens"] == 256
    assert stack.generator.requests[-1].image == IMAGE


@pytest.mark.parametrize("public_url", ["https://images.example.com/atelier", "http://[::1]:8000/"])
def test_the_address_that_the_settings_say(public_url: str) -> None:
    with Stack(public_url=public_url) as stack:
        url = answer(generate(stack, response_format="url"))["data"][0]["url"]
        assert url.startswith(public_url.rstrip("/") + "/v1/jobs/job_")


def test_the_address_that_the_request_was_sent_to() -> None:
    with Stack(root_path="/images") as stack:
        headers = {"Host": "images.example.com"}
        for path in (GENERATIONS, "/images" + GENERATIONS):
            body = {**SMALL, "response_format": "url"}
            url = answer(stack.client.post(path, json=body, headers=headers))["data"][0]["url"]
            assert url.startswith("http://images.example.com/images/v1/jobs/job_")
        assert stack.client.get(stack.url + urlsplit(url).path).status_code == 200


def test_without_jobs_there_are_no_addresses() -> None:
    with Stack(jobs_database="none") as stack:
        response = generate(stack, response_format="url")
        assert refused(response) == ("response_format", "unsupported_value")
        assert "ATELIER_GATEWAY_JOBS_DATABASE" in response.json()["error"]["message"]
        assert "b64_json" in answer(generate(stack, model="dall-e-3"))["data"][0]


def test_what_a_job_failed_with_is_the_error(stack: Stack) -> None:
    stack.generator.error = OutOfMemory("no memory for this")
    response = generate(stack, response_format="url")
    assert response.status_code == 503 and response.headers["x-should-retry"] == "false"
    assert response.json()["error"]["message"] == "no memory for this"
    stack.generator.error = InvalidRequest([FieldViolation("width_px", "is too large")])
    assert refused(generate(stack, response_format="url")) == ("size", "invalid_value")


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_a_full_queue_is_the_error_at_once(stack: Stack, response_format: str) -> None:
    stack.generator.error = QueueFull("full", retry_after_s=3)
    response = generate(stack, response_format=response_format)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("body", [{"response_format": "b64_json"}, {"response_format": "url"}, DALL_E])
def test_a_generator_that_is_away_is_the_error_at_once(body: dict[str, Any]) -> None:
    with Stack(backend_wait_seconds=0.2) as stack:
        stack.stop_generator()
        response = generate(stack, **body)
        assert response.status_code == 503 and response.headers["retry-after"]
        assert response.json()["error"]["code"] == "service_unavailable"


def test_too_many_waiting_jobs() -> None:
    with Stack(jobs_at_once=0, jobs_waiting=1) as stack:
        stack.client.post("/v1/jobs", json={"type": "generate", "input": {"prompt": "x"}})
        response = generate(stack, response_format="url")
        assert response.status_code == 429 and response.headers["retry-after"]


def test_a_client_that_leaves_cancels_the_job() -> None:
    with Stack() as stack:
        stack.generator.hold = True
        content = json.dumps({**SMALL, "response_format": "url"}).encode()
        connection = connect(stack)
        connection.sendall(
            b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (GENERATIONS.encode(), len(content), content)
        )
        eventually(lambda: stack.generator.running == 1)
        connection.close()
        eventually(lambda: jobs_of(stack) == ["cancelled"])
        eventually(lambda: stack.generator.cancelled == 1)


def test_the_deadline_cancels_the_job() -> None:
    with Stack(jobs_at_once=0, deadline_seconds=1) as stack:
        response = generate(stack, response_format="url")
        assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"
        eventually(lambda: jobs_of(stack) == ["cancelled"])


def test_a_job_that_somebody_else_cancels() -> None:
    with Stack(jobs_at_once=0) as stack:

        def cancel() -> None:
            eventually(lambda: jobs_of(stack) == ["queued"])
            in_database(stack, "UPDATE jobs SET status = 'cancelled', version = version + 1")

        thread = threading.Thread(target=cancel)
        thread.start()
        response = generate(stack, response_format="url")
        thread.join()
        assert response.status_code == 503 and "canceled" in response.json()["error"]["message"]
