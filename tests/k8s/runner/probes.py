"""A container's probes, carried out as the kubelet does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.k8s.manifests import Manifest


@dataclass(frozen=True)
class Probe:
    """One probe; where the manifest leaves a value out, it is the one that Kubernetes documents.

    `path`: of an HTTP request. `service`: the name in a check of gRPC health. Times in seconds.
    """

    port: int
    path: str | None
    service: str
    delay: float
    period: float
    timeout: float
    failures: int
    successes: int

    @classmethod
    def read(cls, manifest: Manifest, ports: dict[str, int]) -> Probe:
        """From a probe of the manifest and the container's ports by name."""
        [kind] = manifest.keys() & {"httpGet", "grpc"}
        target = manifest[kind]
        return cls(
            port=ports.get(target["port"], target["port"]),
            path=target.get("path"),
            service=target.get("service", ""),
            delay=manifest.get("initialDelaySeconds", 0),
            period=manifest.get("periodSeconds", 10),
            timeout=manifest.get("timeoutSeconds", 1),
            failures=manifest.get("failureThreshold", 3),
            successes=manifest.get("successThreshold", 1),
        )

    async def succeeds(self, address: str) -> bool:
        """Try once, on a connection of its own."""
        try:
            async with asyncio.timeout(self.timeout):
                return await (self._http(address) if self.path else self._grpc(address))
        except (TimeoutError, httpx.TransportError, grpc.aio.AioRpcError):
            return False

    async def _http(self, address: str) -> bool:
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:
            response = await client.get(f"http://{address}:{self.port}{self.path}")
        return 200 <= response.status_code < 400

    async def _grpc(self, address: str) -> bool:
        async with grpc.aio.insecure_channel(f"{address}:{self.port}") as channel:
            request = health_pb2.HealthCheckRequest(service=self.service)
            answer = await health_pb2_grpc.HealthStub(channel).Check(request)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def results(self, address: str) -> AsyncIterator[bool]:
        """Probe for ever; yield whether it holds, whenever enough tries in a row agree."""
        await asyncio.sleep(self.delay)
        in_a_row, last = 0, False
        while True:
            found = await self.succeeds(address)
            in_a_row = in_a_row + 1 if found == last else 1
            last = found
            if in_a_row >= (self.successes if found else self.failures):
                yield found
            await asyncio.sleep(self.period)
