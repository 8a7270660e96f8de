"""Probes on the metrics port, and what else a service says of itself."""

from __future__ import annotations

import asyncio
import threading
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
