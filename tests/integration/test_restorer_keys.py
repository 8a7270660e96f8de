"""API keys of a restorer that is called directly."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_runtime.api_keys import Scope
from atelier_runtime.errors import ErrorReason
from atelier_runtime.rpc_errors import from_rpc_error
from tests.integration.gateway_client import serve_gateway
from tests.integration.restorer_server import Client, photo, png, serve
from tests.keys import BOTH, key, secret_of, write_keys


def request() -> pb.DetectFacesRequest:
    message = pb.DetectFacesRequest()
    message.image.data = png(photo(64, 64))
    return message


async def reason(client: Client, **metadata: str) -> ErrorReason | None:
    given = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
    try:
        await client.stub.DetectFaces(request(), metadata=given, timeout=60)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason
    return None


async def test_a_restorer_with_keys(blind: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, key("photos", frozenset({Scope.RESTORE})), key("artist", frozenset({Scope.GENERATE})))
    async with serve(blind, api_keys=str(path)) as client:
        assert await reason(client) is ErrorReason.UNAUTHENTICATED
        assert await reason(client, authorization="Bearer unknown") is ErrorReason.UNAUTHENTICATED
        assert await reason(client, x_api_key=secret_of("artist")) is ErrorReason.FORBIDDEN
        assert await reason(client, authorization=f"Bearer {secret_of('photos')}") is None
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.stub.GetStatus(pb.GetStatusRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        health = health_pb2_grpc.HealthStub(client.channel)
        served = await health.Check(health_pb2.HealthCheckRequest(service=client.server.service.name))
        assert served.status == health_pb2.HealthCheckResponse.SERVING, "probes have no key"


async def test_a_gateway_presents_its_key(blind: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, key("gateway", frozenset({*BOTH, Scope.ALL_JOBS})))
    file = png(photo(64, 64))
    keys = {"api_keys": str(path)}
    jobs = {"jobs_database": "none"}
    async with serve_gateway(blind, keys, backend_api_key=secret_of("gateway"), **jobs) as gateway:
        assert (await gateway.post("/detect", file))["faces"] == []
    async with serve_gateway(blind, keys, **jobs) as gateway:
        refused = await gateway.send("/detect", file)
        assert refused.status_code == 500, "the gateway's fault, not the client's"
