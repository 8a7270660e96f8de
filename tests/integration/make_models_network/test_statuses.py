"""Statuses: what is waited for and for how long, what is final, and what to do about it."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from tests.answering_server import AnsweringServer, rest_of
from tests.one_file_fetch import (
    CONTENT,
    HALF,
    WHOLE,
    Fetch,
    status,
)
from tools.models.waiting import LONGEST_S, requested_pause

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
IN_A_MINUTE = format_datetime(NOW + timedelta(seconds=60), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": IN_A_MINUTE, "Date": format_datetime(NOW, usegmt=True)}, 60),
        ({"Retry-After": IN_A_MINUTE.replace("2030", "1999")}, 0),
        ({"Retry-After": "99999999"}, LONGEST_S),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "Mon, 99 Foo 99999999999999 99:99:99 GMT"}, None),
        ({"RateLimit": '"api";r=0;t=123'}, 123),
        ({"RateLimit": '"api"; r=0; t=55, "pages"; r=9; t=200'}, 55),
        ({"RateLimit": '"api";r=0;t=5', "Retry-After": "8"}, 8),
        ({"RateLimit": "nonsense"}, None),
        ({"RateLimit-Reset": "30"}, 30),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW.timestamp()) + 40),
          "Date": format_datetime(NOW, usegmt=True)}, 40),
        ({"X-RateLimit-Remaining": "9", "X-RateLimit-Reset": str(int(NOW.timestamp()) + 40)}, None),
    ],
)  # fmt: skip
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert requested_pause(httpx.Headers(headers)) == seconds


@pytest.mark.parametrize(
    ("headers", "pauses"),
    [
        ({"RateLimit": '"resolvers";r=0;t=271', "RateLimit-Policy": '"fixed window";q=3000;w=300'}, [271]),
        ({"Retry-After": "3600"}, [300]),
        ({"Retry-After": "0"}, [2]),
        ({"Retry-After": "-5"}, [2]),
        ({}, [60]),
    ],
)
def test_too_many_requests_are_waited_for(
    fetch: Fetch,
    server: AnsweringServer,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    pauses: list[float],
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tools.models.download.time.sleep", waited.append)
    named = {name.replace("-", "_"): value for name, value in headers.items()}
    server.answers = [status("429 Too Many Requests", b"", **named), WHOLE]
    assert fetch(f"{server.url}/x", pause="1") == 0 and fetch.complete
    assert waited == pauses and "429" in fetch.err


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 530])
def test_what_passes_is_tried_again(fetch: Fetch, server: AnsweringServer, code: int) -> None:
    server.answers = [status(f"{code} Wait"), WHOLE]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete


@pytest.mark.parametrize("code", [400, 401, 403, 404, 407, 410, 451, 501, 511])
def test_what_does_not_pass_is_told_at_once(fetch: Fetch, server: AnsweringServer, code: int) -> None:
    server.answers = [status(f"{code} No")]
    assert fetch(f"{server.url}/x") == 1 and len(server.asked) == 1
    hints = {401: "HF_TOKEN", 403: "HF_TOKEN", 407: "HTTPS_PROXY", 511: "login"}
    assert hints.get(code, str(code)) in fetch.err


def test_a_compressed_503_is_a_503(fetch: Fetch, server: AnsweringServer) -> None:
    body = gzip.compress(b"<html>busy</html>")
    server.answers = [status("503 Service Unavailable", body, Content_Encoding="gzip"), WHOLE]
    assert fetch(f"{server.url}/x") == 0 and "503" in fetch.err


def test_an_expired_signature_is_signed_anew(
    fetch: Fetch, server: AnsweringServer, other: AnsweringServer
) -> None:
    server.answers = [status("302 Found", Location=f"{other.url}/y?X-Amz-Signature=s3cret")]
    other.answers = [rest_of(CONTENT, most=HALF), status("403 Forbidden", b"Request has expired"), WHOLE]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete
    assert len(server.asked) == 3 and other.ranges == [0, HALF, HALF]
    assert "s3cret" not in fetch.out + fetch.err


def test_githubs_403_with_a_time_to_wait_is_no_refusal(fetch: Fetch, server: AnsweringServer) -> None:
    server.answers = [status("403 rate limit exceeded", Retry_After="0"), WHOLE]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete
