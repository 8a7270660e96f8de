"""What belongs to a caller of AUTOMATIC1111's dialect: its options, its progress, its interruptions."""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest

from atelier_gateway.api.automatic1111.options import (
    MOST_BYTES,
    MOST_BYTES_OF_ALL,
    MOST_CALLERS,
    Options,
)
from atelier_runtime.errors import QueueFull
from tests.contract.automatic1111 import PICTURE, drawings, info_of, post, refusal, told
from tests.contract.services import eventually
from tests.contract.stack import Stack

ANNA = {"Authorization": "Bearer anna"}
BERT = {"X-API-Key": "bert"}
NOBODY: list[dict[str, str]] = [
    {},
    {"Authorization": ""},
    {"Authorization": "Basic"},
    {"Authorization": "bearer"},
    {"Authorization": "Basic Og=="},
    {"X-API-Key": ""},
]
"""Headers without a key, as some clients send them."""


def options(stack: Stack, headers: dict[str, str] | None = None) -> dict[str, Any]:
    response = stack.client.get("/sdapi/v1/options", headers=headers)
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def set_options(stack: Stack, headers: dict[str, str] | None = None, **values: Any) -> httpx.Response:
    response = post(stack, "options", headers=headers, **values)
    assert response.status_code != 200 or response.json() is None
    return response


@pytest.fixture
def forgetful(stack: Stack) -> Iterator[Stack]:
    """The shared stack; what tests set without a key is set back to the defaults."""
    yield stack
    known = options(stack)
    assert set_options(stack, **dict.fromkeys(known)).status_code == 200


# --- options ---


def test_options_are_the_callers_own(forgetful: Stack) -> None:
    stack = forgetful
    assert told(set_options(stack, ANNA, code_former_weight="0.1", face_restoration=True)) == []
    assert told(set_options(stack, BERT, code_former_weight=0.9, face_restoration=True)) == []
    assert options(stack, ANNA)["code_former_weight"] == 0.1
    assert options(stack, BERT)["code_former_weight"] == 0.9
    for headers in NOBODY:
        assert options(stack, headers)["code_former_weight"] == 0.5
    for headers, fidelity in ((ANNA, 0.1), (BERT, 0.9)):
        assert post(stack, "txt2img", headers=headers).status_code == 200
        assert round(stack.restorer.requests[-1].fidelity, 4) == fidelity
    count = len(stack.restorer.requests)
    assert post(stack, "txt2img").status_code == 200
    assert post(stack, "txt2img", headers=ANNA, restore_faces=False).status_code == 200
    assert len(stack.restorer.requests) == count
    set_options(stack, ANNA, code_former_weight=None, face_restoration=None)
    assert options(stack, ANNA) == options(stack)


def test_callers_without_a_key_are_told_apart_by_their_address(forgetful: Stack) -> None:
    set_options(forgetful, samples_format="jpg")
    for headers in NOBODY:
        assert options(forgetful, headers)["samples_format"] == "jpg"
    assert options(forgetful, ANNA)["samples_format"] == "png"


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("sk-raw1", "sk-raw2"),
        ("Bearer sk-raw1", "Bearer sk-raw2"),
        ("Token sk-raw1", "Token sk-raw2"),
        ("Basic YTpi", "Basic YTpj"),
    ],
)
def test_keys_tell_callers_apart(forgetful: Stack, one: str, another: str) -> None:
    headers = {"Authorization": one}
    set_options(forgetful, headers, samples_format="jpg")
    assert options(forgetful, headers)["samples_format"] == "jpg"
    assert options(forgetful, {"Authorization": another})["samples_format"] == "png"
    assert options(forgetful)["samples_format"] == "png"
    set_options(forgetful, headers, samples_format=None)


def test_options_in_effect_for_one_request_do_not_last(forgetful: Stack) -> None:
    response = post(forgetful, "txt2img", override_settings={"samples_format": "webp"})
    assert base64.b64decode(response.json()["images"][0])[:4] == b"RIFF"
    assert options(forgetful)["samples_format"] == "png"


def test_all_options_may_be_posted_back(forgetful: Stack) -> None:
    """Open WebUI does."""
    forgetful.generator.status = {"model_set_hash": "0123456789abcdef" * 4}
    before = options(forgetful)
    assert before["sd_model_checkpoint"] == "demo [0123456789]" and before["sd_checkpoint_hash"]
    assert told(set_options(forgetful, **before)) == []
    assert options(forgetful) == before
    assert told(post(forgetful, "txt2img")) == []


def test_options_that_nobody_knows_are_kept_and_told(forgetful: Stack) -> None:
    response = set_options(forgetful, ANNA, some_extension=[1], CLIP_stop_at_last_layers=2, sd_vae="None")
    assert told(response) == ["some_extension", "CLIP_stop_at_last_layers"]
    assert options(forgetful, ANNA)["some_extension"] == [1]
    strange = {"half \ud800": "\udfff", "large": 10**40}
    assert set_options(forgetful, ANNA, **strange).status_code == 200
    assert options(forgetful, ANNA)["large"] == 10**40
    assert told(post(forgetful, "txt2img", headers=ANNA)) == ["options.CLIP_stop_at_last_layers"]
    overridden = {"CLIP_stop_at_last_layers": 1}
    assert told(post(forgetful, "txt2img", headers=ANNA, override_settings=overridden)) == []
    set_options(forgetful, ANNA, some_extension=None, CLIP_stop_at_last_layers=None)
    assert "some_extension" not in options(forgetful, ANNA)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"sd_model_checkpoint": "another"}, "sd_model_checkpoint: is not loaded; demo"),
        ({"sd_model_checkpoint": 7}, "sd_model_checkpoint: "),
        ({"samples_format": "tiff"}, "samples_format: "),
        ({"code_former_weight": "much"}, "code_former_weight: must be a number from 0 to 1"),
        ({"face_restoration": "perhaps"}, "face_restoration: must be true or false"),
        ({"x": "y" * MOST_BYTES}, f"the limit is {MOST_BYTES}"),
    ],
)
def test_options_that_are_refused(forgetful: Stack, values: dict[str, Any], part: str) -> None:
    before = options(forgetful)
    assert part in refusal(set_options(forgetful, **values))
    assert options(forgetful) == before


def test_a_body_of_options_has_a_limit(forgetful: Stack) -> None:
    assert refusal(set_options(forgetful, x="y" * 3 * MOST_BYTES), 413)


def test_only_so_many_callers_are_remembered() -> None:
    kept = Options()
    for number in range(MOST_CALLERS + 1):
        kept.set(f"caller {number}", {"x": number})
        kept.of("caller 0")
    assert kept.of("caller 0") == {"x": 0}, "was here last"
    assert kept.of("caller 1") == {}
    assert kept.of(f"caller {MOST_CALLERS}") == {"x": MOST_CALLERS}


def test_options_of_all_callers_have_a_limit() -> None:
    """Objects would take many times the memory of their JSON."""
    strange: dict[str, Any] = {"x": [{} for _ in range(10_000)]}
    kept = Options()
    tracemalloc.start()
    try:
        for number in range(MOST_CALLERS):
            kept.set(f"caller {number}", strange)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < MOST_BYTES_OF_ALL + 2**20
    assert kept.of("caller 0") == {}
    assert kept.of(f"caller {MOST_CALLERS - 1}") == strange
    for number in range(MOST_CALLERS):
        kept.set(f"caller {number}", {"x": None})
    for number in range(200):
        kept.set(f"caller {number}", {"x": number})
    assert kept.of("caller 0") == {"x": 0}, "what was forgotten or unset does not count"


# --- progress and interruptions ---


def progress(stack: Stack, headers: dict[str, str] | None = None, query: str = "") -> dict[str, Any]:
    response = stack.client.get(f"/sdapi/v1/progress{query}", headers=headers)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def interrupt(stack: Stack, headers: dict[str, str] | None = None, name: str = "interrupt") -> None:
    """As the Photoshop plugin sends it: a content type, and no body."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    response = httpx.post(f"{stack.url}/sdapi/v1/{name}", headers=headers, trust_env=False)
    assert (response.status_code, response.json()) == (200, {})


@pytest.fixture
def held(stack: Stack) -> Iterator[Stack]:
    stack.generator.hold = True
    yield stack
    stack.generator.hold = False
    eventually(lambda: progress(stack)["state"]["job_count"] == 0)


def begun(stack: Stack, pool: ThreadPoolExecutor, headers: dict[str, str], **body: Any) -> Future[Any]:
    """Begin a request; return once the generator has it."""
    before = len(drawings(stack))
    future = pool.submit(post, stack, "txt2img", headers=headers, **body)
    eventually(lambda: len(drawings(stack)) > before)
    eventually(lambda: progress(stack, headers)["state"]["sampling_step"] == 3)
    return future


def test_nothing_runs(stack: Stack) -> None:
    found = progress(stack)
    assert (found["progress"], found["eta_relative"], found["current_image"]) == (0, 0, None)
    assert found["state"]["job_count"] == 0
    interrupt(stack)
    interrupt(stack, name="skip")


def test_progress_is_the_callers_own(held: Stack) -> None:
    settings = {"show_progress_every_n_steps": 1}
    with ThreadPoolExecutor() as pool:
        running = begun(held, pool, ANNA, batch_size=2, override_settings=settings)
        found = progress(held, ANNA)
        assert 0 < found["progress"] <= 1 and found["eta_relative"] >= 0
        state = found["state"]
        assert (state["job"], state["job_count"]) == ("txt2img", 2)
        assert (state["sampling_step"], state["sampling_steps"]) == (3, 3)
        assert base64.b64decode(found["current_image"], validate=True)[:2] == b"\xff\xd8"
        assert progress(held, ANNA, "?skip_current_image=true")["current_image"] is None
        assert progress(held, BERT)["progress"] == progress(held)["progress"] == 0
        held.generator.hold = False
        assert len(running.result().json()["images"]) == 2
    assert progress(held, ANNA)["state"]["job_count"] == 0


@pytest.mark.parametrize("name", ["interrupt", "skip"])
def test_interrupting_ends_the_callers_own_requests_only(held: Stack, name: str) -> None:
    with ThreadPoolExecutor() as pool:
        annas = [begun(held, pool, ANNA), begun(held, pool, ANNA)]
        berts = begun(held, pool, BERT)
        interrupt(held, name=name)  # nobody's
        interrupt(held, ANNA, name=name)
        for response in (future.result() for future in annas):
            assert response.json()["images"] == []
            info = info_of(response)
            assert info["interrupted"] is True and info["infotexts"] == info["all_seeds"] == []
        eventually(lambda: held.generator.cancelled == 2)
        assert not berts.done() and progress(held, BERT)["state"]["job_count"] == 1
        held.generator.hold = False
        assert len(berts.result().json()["images"]) == 1
    assert held.generator.cancelled == 2


def test_interrupting_a_restoration(stack: Stack) -> None:
    stack.restorer.hold = True
    with ThreadPoolExecutor() as pool:
        body = {"image": PICTURE, "codeformer_visibility": 1}
        future = pool.submit(post, stack, "extra-single-image", headers=ANNA, **body)
        eventually(lambda: progress(stack, ANNA)["state"]["job"] == "extras" and stack.restorer.running == 1)
        interrupt(stack, ANNA)
        assert "interrupted" in refusal(future.result(), 499)
    eventually(lambda: stack.restorer.cancelled == 1)


def test_a_client_that_goes_away(held: Stack) -> None:
    """Its work is stopped, and it has nothing running any more."""
    connection = HTTPConnection("127.0.0.1", held.port)
    body = json.dumps({"prompt": "x", "width": 256, "height": 256})
    connection.request("POST", "/sdapi/v1/txt2img", body, ANNA)
    eventually(lambda: len(drawings(held)) == held.generator.running == 1)
    assert progress(held, ANNA)["state"]["job_count"] == 1
    connection.close()
    eventually(lambda: held.generator.cancelled == 1)
    eventually(lambda: progress(held, ANNA)["state"]["job_count"] == 0)


def test_skip_current_image_is_a_flag(stack: Stack) -> None:
    response = stack.client.get("/sdapi/v1/progress?skip_current_image=maybe")
    assert refusal(response).startswith("skip_current_image: must be true or false")


# --- errors ---


def test_paths_that_there_are_not(stack: Stack) -> None:
    for path in ("/sdapi/v1/nothing", "/sdapi/v1/interrogate", "/internal/x", "/queue/join", "/sdapi"):
        assert refusal(stack.client.post(path), 404)
    response = stack.client.delete("/sdapi/v1/txt2img")
    assert refusal(response, 405) and response.headers["Allow"] == "POST"
    assert "code" in stack.client.get("/nothing").json()["error"], "the native dialect's own form"


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"prompt": NaN}', "application/json", 400),
        (b"prompt=x", "application/x-www-form-urlencoded", 415),
        (b'{"prompt": "x", "prompt": "y"}', "application/json", 422),
    ],
)
def test_bodies_that_cannot_be_read(stack: Stack, content: bytes, content_type: str, status: int) -> None:
    headers = {"Content-Type": content_type}
    assert refusal(stack.client.post("/sdapi/v1/txt2img", content=content, headers=headers), status)


@pytest.mark.parametrize("path", ["txt2img", "img2img", "extra-single-image", "png-info", "options"])
@pytest.mark.parametrize("levels", [65, 300, 480, 900, 990, 5000])
def test_bodies_that_are_nested_too_deeply(stack: Stack, path: str, levels: int) -> None:
    for opening, closing in (("[", "]"), ('{"x":', "}")):
        nested = opening * levels + "1" + closing * levels
        content = f'{{"prompt": "x", "image": "{PICTURE}", "init_images": ["{PICTURE}"], "x": {nested}}}'
        assert "nested too deeply" in refusal(stack.client.post(f"/sdapi/v1/{path}", content=content), 400)


@pytest.mark.parametrize("path", ["txt2img", "options"])
def test_bodies_that_are_nested_just_so(stack: Stack, path: str) -> None:
    nested: Any = 1
    for _ in range(62):
        nested = [nested]
    body: dict[str, Any] = {"x": nested} | ({} if path == "options" else {"send_images": False})
    assert told(post(stack, path, headers=ANNA, **body)) == ["x"]
    assert options(stack, ANNA).get("x") == (nested if path == "options" else None)
    if path == "options":
        set_options(stack, ANNA, x=None)


def test_errors_of_services(stack: Stack) -> None:
    stack.generator.error = QueueFull(retry_after_s=3)
    response = post(stack, "txt2img")
    assert refusal(response, 429) and response.headers["Retry-After"] == "3"


def test_faces_that_cannot_be_restored_fail(module_stack: Stack) -> None:
    """A client of this dialect would not see that a drawing's faces were not restored."""
    module_stack.reset()
    module_stack.stop_restorer()
    try:
        assert refusal(post(module_stack, "txt2img", restore_faces=True), 503)
        assert post(module_stack, "txt2img").status_code == 200
        assert module_stack.client.get("/sdapi/v1/face-restorers").json() == []
    finally:
        module_stack.start_restorer()


def test_a_body_is_json_whatever_the_client_calls_it(stack: Stack) -> None:
    content = json.dumps({"prompt": "x", "width": 256, "height": 256})
    headers = {"Content-Type": "text/plain"}
    assert stack.client.post("/sdapi/v1/txt2img", content=content, headers=headers).status_code == 200
