"""Probes on the metrics port, and what else a service says of itself."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from atelier_runtime import metrics_server
from atelier_runtime.health import Readiness
from tests.authority import Authority
from tests.unit.runtime.tls_service import NAME, Running, running


async def test_probes_are_answered_on_the_metrics_port(tmp_path: Path) -> None:
    served = Running(tmp_path, tls_ca=Authority().write(tmp_path))
    loaded = threading.Event()
    served.server.service.loaded = loaded
    await served.server.start()
    response = await served.probe("/readyz")
    assert (response.status_code, response.text) == (503, "loading\n")
    assert (await served.probe("/livez")).status_code == 200
    loaded.set()
    await served.server.wait_ready()
    assert [(await served.probe(path)).text for path in ("/livez", "/readyz")] == ["ok\n", "ok\n"]
    assert "atelier_build_info" in (await served.probe("/metrics")).text
    await served.server.readiness.set_draining()
    response = await served.probe("/readyz")
    assert (response.status_code, response.text) == (503, "draining\n")
    assert (await served.probe("/livez")).status_code == 200, "or the kubelet would kill what drains"
    await served.server.drain()


async def test_a_process_whose_event_loop_stands_is_neither_live_nor_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_server, "_TURN_S", 0.2)
    standing = asyncio.new_event_loop()
    release = threading.Event()
    probes = metrics_server.Probes(Readiness(NAME).reason)
    standing.call_soon(probes.attach)
    standing.call_soon(release.wait, 60)
    thread = threading.Thread(target=standing.run_forever)
    thread.start()
    while probes.ready() == "starting":
        await asyncio.sleep(0.01)
    served = metrics_server.MetricsServer("127.0.0.1", 0, CollectorRegistry(), probes)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", trust_env=False) as client:
            for path in ("/livez", "/readyz"):
                response = await client.get(path)
                assert (response.status_code, response.text) == (503, "no answer within 0.2 s\n")
    finally:
        await asyncio.to_thread(served.close)
        standing.call_soon_threadsafe(standing.call_soon, standing.stop)
        release.set()
        await asyncio.to_thread(thread.join)
        standing.close()


@pytest.fixture
def served() -> Iterator[metrics_server.MetricsServer]:
    server = metrics_server.MetricsServer(
        "127.0.0.1", 0, CollectorRegistry(), metrics_server.Probes(Readiness(NAME).reason)
    )
    yield server
    server.close()


@pytest.mark.parametrize("begin", [b"", b"GET /livez HTTP/1.1\r\nHost: a\r\n"], ids=["nothing", "half"])
def test_who_sends_no_request_does_not_hold_a_probe_up(
    served: metrics_server.MetricsServer, begin: bytes
) -> None:
    with ExitStack() as everything:
        connections = [
            everything.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=20))
            for _ in range(metrics_server._MAX_CONNECTIONS)
        ]
        for each in connections:
            each.sendall(begin)
        url = f"http://127.0.0.1:{served.port}/livez"
        assert [httpx.get(url, trust_env=False).text for _ in range(3)] == ["ok\n"] * 3
        assert connections[0].recv(1) == b"", "the oldest has made room"


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/metrics", 200), ("/livez/", 404), ("/metric", 404), ("/health", 404)]
)
def test_there_is_nothing_at_other_paths(
    served: metrics_server.MetricsServer, path: str, status: int
) -> None:
    response = httpx.get(f"http://127.0.0.1:{served.port}{path}", trust_env=False)
    assert response.status_code == status
    if status == 404:
        assert response.text == "only /metrics /livez /readyz\n"


@pytest.mark.parametrize("is_on", [True, False])
async def test_reflection_is_a_setting(tmp_path: Path, is_on: bool) -> None:
    async with running(tmp_path, reflection=is_on) as served, served.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        if is_on:
            [response] = [response async for response in call]
            assert NAME in [each.name for each in response.list_services_response.service]
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [response async for response in call]
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        health = health_pb2_grpc.HealthStub(channel)
        response = await health.Check(health_pb2.HealthCheckRequest(service=NAME))
        assert response.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("listens", "called", "status"),
    [
        ("127.0.0.1", "localhost:9100", 200),
        ("127.0.0.1", "127.0.0.1", 200),
        ("127.0.0.1", "[::1]:9100", 200),
        ("127.0.0.1", "rebound.example:9100", 403),
        ("127.0.0.1", "127.0.0.1.example", 403),
        ("0.0.0.0", "atelier-gateway.atelier.svc", 200),
    ],
)
def test_where_only_this_machine_asks_no_page_of_another_name_can(
    listens: str, called: str, status: int
) -> None:
    served = metrics_server.MetricsServer(listens, 0, CollectorRegistry())
    try:
        url = f"http://127.0.0.1:{served.port}/metrics"
        assert httpx.get(url, headers={"Host": called}, trust_env=False).status_code == status
    finally:
        served.close()
