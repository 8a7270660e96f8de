"""Images as server-sent events: previews, files, errors in the middle, and clients that leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_gateway.api.openai import stream
from atelier_gateway.api.openai.stream import interval_of
from atelier_runtime.errors import InvalidRequest, OutOfMemory, QueueFull
from tests.contract.openai_client import (
    EDITS,
    GENERATIONS,
    IMAGE,
    SMALL,
    drawn,
    events_in,
    generate,
    picture,
    sdk,
)
from tests.contract.raw_http import connect
from tests.contract.scripted_generator import STEPS
from tests.contract.services import eventually
from tests.contract.stack import Stack

PARTIAL = "image_generation.partial_image"
COMPLETED = "image_generation.completed"


def test_previews_and_the_file(stack: Stack) -> None:
    stack.generator.result = {"prompt_tokens": 7}
    response = generate(stack, stream=True, partial_images=2, seed=5, user="u", output_format="webp")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-atelier-ignored"] == "user"
    assert response.headers["x-atelier-model"] == "demo"
    events = events_in(response)
    assert [name for name, _ in events] == [PARTIAL, PARTIAL, COMPLETED, ""]
    assert events[-1][1] == "[DONE]"
    for index, (name, data) in enumerate(events[:2]):
        assert data["type"] == name and data["partial_image_index"] == index
        assert picture(data["b64_json"]).format == "JPEG" and data["output_format"] == "jpeg"
    last = events[2][1]
    assert picture(last["b64_json"]).format == "WEBP" and last["output_format"] == "webp"
    assert (last["seed"], last["size"], last["quality"]) == (5, "256x256", "medium")
    assert [face["restored"] for face in last["faces"]] == [True]
    assert last["usage"]["total_tokens"] == 7 + 256


def test_without_partial_images_there_is_the_file_alone(stack: Stack) -> None:
    events = events_in(generate(stack, stream=True))
    assert [name for name, _ in events] == [COMPLETED, ""]
    [request] = stack.generator.requests
    assert not request.HasField("preview_interval_steps")


def test_never_more_previews_than_asked_for(stack: Stack) -> None:
    names = [name for name, _ in events_in(generate(stack, stream=True, partial_images=1))]
    assert names == [PARTIAL, COMPLETED, ""]


def test_a_set_that_has_no_previews_draws_all_the_same(stack: Stack) -> None:
    stack.generator.colorless = True
    names = [name for name, _ in events_in(generate(stack, stream=True, partial_images=3))]
    assert names == [COMPLETED, ""]
    assert not drawn(stack).HasField("preview_interval_steps")


@pytest.mark.parametrize(
    ("steps", "count", "interval"),
    [([30], 1, 15), ([30], 2, 10), ([30], 3, 7), ([30, 9], 3, 9), ([2], 3, 1), ([5, 5, 5], 1, 5), ([], 1, 1)],
)
def test_previews_are_spread_over_the_steps(steps: list[int], count: int, interval: int) -> None:
    assert interval_of(steps, count) == interval


def test_several_images(stack: Stack) -> None:
    stack.generator.result = {"prompt_tokens": 7}
    events = [data for _, data in events_in(generate(stack, stream=True, n=2, partial_images=1, seed=5))][:-1]
    assert [(each["type"], each["image_index"]) for each in events] == [
        *((PARTIAL, 0), (PARTIAL, 1)),
        *((COMPLETED, 0), (COMPLETED, 1)),
    ]
    assert [each["partial_image_index"] for each in events[:2]] == [0, 0]
    assert [each["seed"] for each in events[2:]] == [5, 6]
    usages = [each["usage"] for each in events[2:]]
    assert sum(usage["input_tokens"] for usage in usages) == 7, "counted once"
    assert all(u["total_tokens"] == u["input_tokens"] + u["output_tokens"] for u in usages)


@pytest.mark.parametrize("partial_images", [0, 2])
@pytest.mark.parametrize(
    ("error", "status"),
    [(QueueFull("full", retry_after_s=3), 429), (InvalidRequest.of("width_px", "is too large"), 400)],
)
def test_errors_before_the_first_event_have_their_status(
    stack: Stack, error: Any, status: int, partial_images: int
) -> None:
    stack.generator.error = error
    response = generate(stack, stream=True, partial_images=partial_images)
    assert response.status_code == status and "error" in response.json()
    assert (response.headers.get("retry-after") == "3") is (status == 429)


def test_requests_are_checked_before_they_are_streamed(stack: Stack) -> None:
    assert generate(stack, stream=True, n=11).status_code == 400


def test_an_error_after_the_first_event_is_an_event(stack: Stack) -> None:
    stack.generator.error_at = 1
    response = generate(stack, stream=True, n=2, partial_images=1)
    assert response.status_code == 200
    name, data = events_in(response)[-1]
    assert name == "error" and data["error"]["type"] == "server_error"
    with pytest.raises(openai.APIError) as raised:
        list(sdk(stack.url).images.generate(prompt="x", size="256x256", n=2, stream=True, partial_images=1))
    assert raised.value.message == data["error"]["message"]


def _first_event(response: httpx.Response) -> Iterator[str]:
    lines = response.iter_lines()
    assert next(lines) == f"event: {PARTIAL}"
    return lines


def test_a_client_that_leaves_ends_the_work(stack: Stack) -> None:
    stack.generator.hold = True
    body = {**SMALL, "stream": True, "partial_images": 1}
    with stack.client.stream("POST", GENERATIONS, json=body) as response:
        lines = _first_event(response)
        eventually(lambda: stack.generator.running == 1)
        assert next(lines).startswith("data: "), "the response is read, and not over"
    eventually(lambda: stack.generator.cancelled == 1)
    assert stack.generator.running == 0


def test_a_client_that_leaves_before_the_first_event_ends_the_work(stack: Stack) -> None:
    stack.generator.hold = True
    content = json.dumps({**SMALL, "stream": True}).encode()
    connection = connect(stack)
    connection.sendall(
        b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (GENERATIONS.encode(), len(content), content)
    )
    eventually(lambda: stack.generator.running == 1)
    connection.close()
    eventually(lambda: stack.generator.cancelled == 1)


def test_the_sdk_closes_a_stream(stack: Stack) -> None:
    stack.generator.hold = True
    events = sdk(stack.url).images.generate(prompt="x", size="256x256", stream=True, partial_images=3)
    assert next(iter(events)).type == PARTIAL
    eventually(lambda: stack.generator.running == 1)
    events.close()
    eventually(lambda: stack.generator.cancelled == 1)


def test_the_deadline_ends_a_stream() -> None:
    with Stack(deadline_seconds=1) as stack:
        stack.generator.hold = True
        name, data = events_in(generate(stack, stream=True, partial_images=1))[-1]
        assert name == "error" and data["error"]["code"] == "timeout"
        eventually(lambda: stack.generator.running == 0)
        response = generate(stack, stream=True)
        assert response.status_code == 504 and response.headers["x-should-retry"] == "false"


def test_connections_on_which_nothing_happens_are_kept_alive(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_HEARTBEAT_S", 0.05)
    stack.generator.hold = True
    body = {**SMALL, "stream": True, "partial_images": 1}
    with stack.client.stream("POST", GENERATIONS, json=body) as response:
        lines = _first_event(response)
        while next(lines).strip() != ":":
            pass
        stack.generator.hold = False
        assert "data: [DONE]" in list(lines)
    stack.generator.hold = True
    events = iter(sdk(stack.url).images.generate(prompt="x", size="256x256", stream=True, partial_images=1))
    assert next(events).type == PARTIAL
    eventually(lambda: stack.generator.running == 1)
    stack.generator.hold = False
    assert [event.type for event in events] == [COMPLETED], "comments are no events"


def test_a_response_begins_before_the_first_event(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_GRACE_S", 0.05)
    stack.generator.hold = True
    with stack.client.stream("POST", GENERATIONS, json={**SMALL, "stream": True, "user": "u"}) as response:
        assert response.status_code == 200 and response.headers["x-atelier-model"] == "demo"
        assert response.headers["x-atelier-ignored"] == "user"
        lines = response.iter_lines()
        assert next(lines).strip() == ":"
        stack.generator.hold = False
        rest = list(lines)
        assert f"event: {COMPLETED}" in rest and "data: [DONE]" in rest


def test_what_fails_after_a_response_has_begun_is_an_event(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_GRACE_S", 0.05)
    stack.generator.hold, stack.generator.error_at = True, 0
    with stack.client.stream("POST", GENERATIONS, json={**SMALL, "stream": True}) as response:
        lines = response.iter_lines()
        assert response.status_code == 200 and next(lines).strip() == ":"
        stack.generator.hold = False
        assert "event: error" in list(lines)


def test_a_client_that_leaves_a_response_that_has_begun_ends_the_work(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_GRACE_S", 0.05)
    stack.generator.hold = True
    with stack.client.stream("POST", GENERATIONS, json={**SMALL, "stream": True}) as response:
        assert next(response.iter_lines()).strip() == ":"
    eventually(lambda: stack.generator.cancelled == 1)


def test_the_restorer_failing_in_the_middle(stack: Stack) -> None:
    stack.restorer.error = OutOfMemory()
    response = generate(stack, stream=True, partial_images=1, on_restore_failure="fail")
    name, data = events_in(response)[-1]
    assert name == "error" and data["error"]["code"] == "out_of_memory"
    events = events_in(generate(stack, stream=True))
    assert events[0][0] == COMPLETED and events[0][1]["faces"] == [], (
        "the image as it is, as /generate has it"
    )


def test_edits_stream_too(stack: Stack) -> None:
    stream_of = sdk(stack.url).images.edit(
        image=IMAGE, prompt="x", size="256x256", stream=True, partial_images=STEPS
    )
    events = list(stream_of)
    assert [event.type for event in events] == ["image_edit.partial_image"] * STEPS + ["image_edit.completed"]
    last = events[-1]
    assert last.type == "image_edit.completed" and last.usage.input_tokens_details.image_tokens == 256
    assert isinstance(stack.generator.requests[-1], pb.GenerateImageRequest)
    assert EDITS.endswith("edits")
