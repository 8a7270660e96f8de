"""A connection that dies in silence is noticed and replaced while a call waits on it; on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from atelier_runtime import channel as channel_options
from atelier_runtime import defaults
from bench.chaos.proxy import Fault, Proxy
from tests.unit.gateway.backends.replicas import ReplicaSet, in_time, name


@pytest.fixture
async def replica_set(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReplicaSet]:
    monkeypatch.setattr(defaults, "PING_INTERVAL_S", 0.2)
    monkeypatch.setattr(channel_options, "PING_TIMEOUT_MS", 1000)
    replica_set = ReplicaSet()
    yield replica_set
    await replica_set.close()


async def test_a_call_on_a_connection_that_died_is_made_again_on_another(replica_set: ReplicaSet) -> None:
    replica = await replica_set.replica("a")
    async with Proxy(replica.port) as proxy:
        channel = await replica_set.channel(proxy.port)
        assert await channel.call(name, in_time()) == "a"
        proxy.fault = Fault.HALF_OPEN
        call = channel.call(name, in_time())
        assert await asyncio.wait_for(call, 18) == "a", "long before the call's own 20 s, and gRPC's 60 s"
