"""Webhooks: signed, posted until they are received, over restarts, and to public addresses only."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpcore
import pytest
from sqlalchemy import select
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from atelier_gateway.jobs.addresses import BlockedAddress, PublicBackend, is_blocked_literal, is_public
from atelier_gateway.jobs.tables import deliveries
from atelier_gateway.jobs.webhooks import RETRY_S, Webhooks
from tests.contract.job_client import PROMPT, finished, submit
from tests.contract.services import eventually
from tests.contract.stack import Stack
from tests.jobs.receiver import Receiver, receiving
from tests.jobs.rows import Rows, new_job, rows_in

SECRET = "whsec_" + base64.b64encode(b"a" * 24).decode()
NEXT_SECRET = "whsec_" + base64.b64encode(b"b" * 32).decode()
QUICKLY = (0.0, 0.0, 0.0)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


async def with_event(rows: Rows, url: str) -> str:
    """Have a job that has ended, and whose end is to be told; return its ID."""
    job, _ = await rows.store.submit(new_job(webhook={"url": url, "events": ["cancelled"]}))
    await rows.store.cancel(job.id)
    return job.id


async def pending(rows: Rows) -> list[Any]:
    async with rows.database.reading() as connection:
        return list((await connection.execute(select(deliveries))).mappings())


@asynccontextmanager
async def posting(
    rows: Rows,
    *,
    secrets: Sequence[str] = (SECRET,),
    private: bool = True,
    retry_s: Sequence[float] = QUICKLY,
) -> AsyncIterator[None]:
    webhooks = Webhooks(rows.outbox, secrets, private_addresses=private, retry_s=retry_s)
    task = asyncio.create_task(webhooks.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Any, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not (await condition() if asyncio.iscoroutinefunction(condition) else condition()):
            await asyncio.sleep(0.02)


async def test_an_event_is_signed_and_posted_once(database_url: str, receiver: Receiver) -> None:
    async with rows_in(database_url) as rows:
        job_id = await with_event(rows, receiver.url)
        async with posting(rows, secrets=(SECRET, NEXT_SECRET)):
            await until(lambda: receiver.received)

            async def forgotten() -> bool:
                return not await pending(rows)

            await until(forgotten)
    [request] = receiver.received
    for secret in (SECRET, NEXT_SECRET):  # while one replaces the other
        event = Webhook(secret).verify(request.body, request.headers)
        assert event["type"] == "job.cancelled" and event["data"] == {"id": job_id, "status": "cancelled"}
    assert request.headers["content-type"] == "application/json"
    stranger = Webhook("whsec_" + base64.b64encode(b"c" * 24).decode())
    with pytest.raises(WebhookVerificationError):
        stranger.verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body.replace("cancelled", "completed"), request.headers)


async def test_a_replay_is_too_old_and_has_a_known_id(sqlite_url: str, receiver: Receiver) -> None:
    receiver.answers = [500, 503, 204]
    async with rows_in(sqlite_url) as rows:
        await with_event(rows, receiver.url)
        async with posting(rows):
            await until(lambda: len(receiver.received) == 3)
    ids = {request.headers["webhook-id"] for request in receiver.received}
    assert len(ids) == 1, "receivers tell repeated events by it"
    assert len({request.body for request in receiver.received}) == 1
    last = receiver.received[-1]
    long_ago = str(int((datetime.now(UTC) - timedelta(minutes=6)).timestamp()))
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(SECRET).verify(last.body, {**last.headers, "webhook-timestamp": long_ago})
    Webhook(SECRET).verify(last.body, last.headers)  # signed at its own attempt, not at the first


async def test_attempts_end(sqlite_url: str, receiver: Receiver) -> None:
    receiver.answers = [500]
    async with rows_in(sqlite_url) as rows:
        await with_event(rows, receiver.url)
        async with posting(rows):

            async def forgotten() -> bool:
                return not await pending(rows)

            await until(forgotten)
    assert len(receiver.received) == len(QUICKLY) + 1
    assert len(RETRY_S) == 9 and sum(RETRY_S) > 3 * 24 * 3600


async def test_retry_after_is_heeded(sqlite_url: str, receiver: Receiver) -> None:
    receiver.answers, receiver.headers = [429], {"Retry-After": "3600"}
    async with rows_in(sqlite_url) as rows:
        await with_event(rows, receiver.url)
        async with posting(rows):
            await until(lambda: receiver.received)

            async def put_off() -> bool:
                [row] = await pending(rows)
                now = datetime.now(UTC).timestamp() * 1000
                return bool(row["available_at"] > now + 3_500_000)

            await until(put_off)


async def test_gone_ends_all_events_for_that_url(sqlite_url: str, receiver: Receiver) -> None:
    receiver.answers = [410]
    async with rows_in(sqlite_url) as rows:
        for _ in range(3):
            await with_event(rows, receiver.url)
        await with_event(rows, receiver.url + "/other")
        async with posting(rows):

            async def forgotten() -> bool:
                return not await pending(rows)

            await until(forgotten)
        before = len(receiver.received)
        assert await rows.outbox.take(10) == [] and 2 <= before <= 4


async def test_events_survive_a_restart(database_url: str, receiver: Receiver) -> None:
    receiver.answers = [500, 204]
    async with rows_in(database_url) as rows:
        await with_event(rows, receiver.url)
        async with posting(rows, retry_s=(0.5, 0.5)):
            await until(lambda: receiver.received)
            await asyncio.sleep(0.1)
    async with rows_in(database_url) as rows, posting(rows, retry_s=(0.5, 0.5)):
        await until(lambda: len(receiver.received) == 2)


async def test_one_that_hangs_holds_up_no_other(sqlite_url: str, receiver: Receiver) -> None:
    receiver.answers, receiver.hangs_s = [0, 204], 5.0
    async with rows_in(sqlite_url) as rows:
        await with_event(rows, receiver.url)
        async with posting(rows):
            await until(lambda: len(receiver.received) == 1)
            await with_event(rows, receiver.url)
            await until(lambda: len(receiver.received) == 2, within_s=4.0)


async def test_a_host_that_hangs_does_not_keep_others_waiting(sqlite_url: str, receiver: Receiver) -> None:
    with receiving() as hangs:
        hangs.answers, hangs.hangs_s = [0], 6.0
        async with rows_in(sqlite_url) as rows:
            for _ in range(20):
                await with_event(rows, hangs.url.replace("127.0.0.1", "localhost"))
            await with_event(rows, receiver.url)
            async with posting(rows):
                await until(lambda: receiver.received, within_s=5.0)
        assert len(hangs.received) <= 4


async def test_a_redirect_is_not_followed(sqlite_url: str, receiver: Receiver) -> None:
    with receiving() as secret:
        receiver.answers, receiver.headers = [302], {"Location": secret.url}
        async with rows_in(sqlite_url) as rows:
            await with_event(rows, receiver.url)
            async with posting(rows):
                await until(lambda: len(receiver.received) == len(QUICKLY) + 1)
        assert secret.received == []


async def test_an_address_that_is_not_public_is_not_connected_to(sqlite_url: str, receiver: Receiver) -> None:
    async with rows_in(sqlite_url) as rows:
        await with_event(rows, receiver.url.replace("127.0.0.1", "localhost"))
        async with posting(rows, private=False):

            async def forgotten() -> bool:
                return not await pending(rows)

            await until(forgotten)
    assert receiver.received == []


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
        *(
            "fec0::1",
            "192.88.99.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ),
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public(address: str) -> None:
    assert is_public(address)


def test_hosts_that_are_addresses() -> None:
    assert is_blocked_literal("127.0.0.1") and is_blocked_literal("[::1]")
    assert not is_blocked_literal("8.8.8.8") and not is_blocked_literal("example.com")


async def test_the_address_that_was_checked_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a private address the second time: it is resolved once."""
    answers = iter([["8.8.8.8"], ["127.0.0.1"]])
    resolved, connected = [], []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        resolved.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in next(answers)]

    async def connect_tcp(self: Any, host: str, *_: Any, **__: Any) -> Any:
        connected.append(host)
        raise httpcore.ConnectError("not from here")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
    with pytest.raises(httpcore.ConnectError):
        await PublicBackend().connect_tcp("rebinding.example", 443)
    assert resolved == ["rebinding.example"] and connected == ["8.8.8.8"]
    with pytest.raises(BlockedAddress, match="is 127"):
        await PublicBackend().connect_tcp("rebinding.example", 443)


def test_over_http(receiver: Receiver) -> None:
    with Stack(webhook_secrets=SECRET, webhook_private_addresses=True) as stack:
        webhook = {"url": receiver.url, "events": ["started", "completed"]}
        job = finished(stack, submit(stack, webhook=webhook))
        eventually(lambda: len(receiver.received) == 2)
        events = [Webhook(SECRET).verify(each.body, each.headers) for each in receiver.received]
        assert {event["type"] for event in events} == {"job.started", "job.completed"}
        [data] = [event["data"] for event in events if event["type"] == "job.completed"]
        assert data["id"] == job["id"] and data["outputs"] == job["outputs"] and "result" not in data
        assert "prompt" not in json.dumps(events), "what was asked for is nobody else's business"


def test_a_private_address_is_refused_at_once() -> None:
    with Stack(webhook_secrets=SECRET) as stack:
        for url in ("http://127.0.0.1/x", "http://[::1]:8080/x", "https://169.254.169.254/latest"):
            body = {"type": "generate", "input": PROMPT, "webhook": {"url": url}}
            response = stack.client.post("/v1/jobs", json=body)
            assert response.status_code == 422, url
            assert response.json()["error"]["fields"][0]["field"] == "webhook.url"
