"""The whole: manifests that are applied, and what a platform engineer does to them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.k8s.manifests import Manifest, Workload, of_kind
from tests.k8s.runner.autoscaler import SYNC_S, Autoscaler
from tests.k8s.runner.deployments import Deployment
from tests.k8s.runner.monitoring import Prometheus
from tests.k8s.runner.pods import Node, Pod, all_of
from tests.k8s.runner.services import Dns, Proxy

RECONCILE_S = 0.1
DNS_PORT, PROMETHEUS_PORT, LOCK_PORT = 53, 9090, 9
START_S = 300.0
"""For what waits on busy cores; no test is about how long that takes."""


class Cluster:
    """What runs of some manifests. Workloads go by their short names, such as `restorer`."""

    def __init__(self, manifests: list[Manifest], network: str, folder: Path) -> None:
        numbers = itertools.count(11)
        self.dns = Dns(f"{network}.1", DNS_PORT, folder)
        node = Node(self.dns.address, folder)
        names = [name.removeprefix("atelier-") for name in of_kind(manifests, "Deployment")]
        self.deployments = {
            name: Deployment(Workload("runner", name, manifests), node, lambda: f"{network}.{next(numbers)}")
            for name in names
        }
        self.prometheus = Prometheus(manifests, f"{network}.2", PROMETHEUS_PORT, folder)
        self.autoscalers = [Autoscaler(each) for each in of_kind(manifests, "ScaledObject").values()]
        self._services = of_kind(manifests, "Service")
        self._addresses = {name: f"{network}.{3 + n}" for n, name in enumerate(self._services)}
        self._proxies: dict[str, Proxy] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def __getitem__(self, name: str) -> Deployment:
        return self.deployments[name]

    def pods(self, name: str) -> list[Pod]:
        """The pods of a Deployment that are not being deleted, oldest first."""
        return [pod for pod in self.deployments[name].pods if not pod.deleted]

    @property
    def url(self) -> str:
        """Where clients reach the gateway's Service."""
        service = self._services["atelier-gateway"]
        [port] = service["spec"]["ports"]
        return f"http://{self._addresses['atelier-gateway']}:{port['port']}"

    async def start(self) -> None:
        """Apply the manifests; returns before anything is ready."""
        self.dns.start()
        for name, service in self._services.items():
            if service["spec"].get("clusterIP") != "None":
                [port] = service["spec"]["ports"]
                self._proxies[name] = Proxy()
                await self._proxies[name].start(self._addresses[name], port["port"])
        self._tasks.append(asyncio.create_task(self._control(), name="controllers"))

    async def close(self) -> None:
        """End everything at once. What cannot be ended keeps nothing else; the first such error is raised."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await all_of(
            *(deployment.close() for deployment in self.deployments.values()),
            *(proxy.close() for proxy in self._proxies.values()),
            asyncio.to_thread(self.prometheus.close),
            asyncio.to_thread(self.dns.close),
        )

    def sends_to(self, pod: Pod) -> bool:
        """Whether a Service has the pod's address."""
        found = [address for proxy in self._proxies.values() for address, _ in proxy.endpoints]
        found += [address for name in self._services for address in self.dns.addresses(name)]
        return pod.address in found

    async def until(self, condition: Callable[[], bool], within_s: float = START_S) -> float:
        """Wait until the condition holds; return how long it took. The test fails if that is too long."""
        started = time.monotonic()
        while not condition():
            self._check()
            assert time.monotonic() - started < within_s, f"still waiting after {within_s} s"
            await asyncio.sleep(RECONCILE_S)
        return time.monotonic() - started

    async def ready(self, *names: str) -> None:
        """Wait until these Deployments, or all, have as many ready pods as they shall have."""
        chosen = [self[name] for name in names or self.deployments]
        await self.until(lambda: all(sum(p.ready for p in each.pods) == each.replicas for each in chosen))

    async def rolled_out(self, name: str) -> float:
        """Wait for the end of a rollout, as `kubectl rollout status` does; return the seconds."""
        return await self.until(lambda: self[name].rolled_out)

    def scale_automatically(self, *, start: bool = True) -> dict[str, int]:
        """Start Prometheus, and let the ScaledObjects decide from now on.

        Returns how many replicas each workload shall have, which changes with every decision. Without `start`
        that is all, and the pods remain as they are.
        """
        self.prometheus.start()
        wanted = {name: deployment.replicas for name, deployment in self.deployments.items()}
        self._tasks.append(asyncio.create_task(self._autoscale(wanted, start), name="autoscalers"))
        return wanted

    async def _control(self) -> None:
        """What the controllers, the endpoints and the operator of Prometheus do."""
        while True:
            for deployment in self.deployments.values():
                deployment.reconcile()
            for name, service in self._services.items():
                self._publish(name, service)
            self.prometheus.discover([pod for each in self.deployments.values() for pod in each.pods])
            await asyncio.sleep(RECONCILE_S)

    def _publish(self, name: str, service: Manifest) -> None:
        selector = service["spec"]["selector"].items()
        pods = [pod for each in self.deployments.values() for pod in each.pods if pod.published]
        chosen = [pod for pod in pods if selector <= pod.workload.labels.items()]
        if name in self._proxies:
            [port] = service["spec"]["ports"]
            self._proxies[name].endpoints = [(pod.address, pod.ports[port["targetPort"]]) for pod in chosen]
        else:
            self.dns.publish(name, [pod.address for pod in chosen])

    async def _autoscale(self, wanted: dict[str, int], start: bool) -> None:
        while True:
            for autoscaler in self.autoscalers:
                name = autoscaler.target.removeprefix("atelier-")
                values = [await self._measure(t.query, t.null_is_zero) for t in autoscaler.triggers]
                wanted[name] = autoscaler.decide(time.monotonic(), values, wanted[name])
                if start:
                    self[name].replicas = wanted[name]
            await asyncio.sleep(SYNC_S)

    async def _measure(self, query: str, null_is_zero: bool) -> float | None:
        try:
            value = await self.prometheus.value(query)
        except httpx.HTTPError:
            return None
        return 0.0 if value is None and null_is_zero else value

    def _check(self) -> None:
        """Raise what ended one of the runner's own tasks."""
        for task in self._tasks:
            if task.done():
                task.result()


@asynccontextmanager
async def applied(manifests: list[Manifest], folder: Path) -> AsyncIterator[Cluster]:
    """Apply manifests, on addresses that no other cluster has; at the end nothing of it runs."""
    with _network() as network:
        cluster = Cluster(manifests, network, folder)
        try:
            await cluster.start()
            yield cluster
        finally:
            await cluster.close()


@contextlib.contextmanager
def _network() -> Iterator[str]:
    """The first three numbers of addresses that are ours as long as the socket is bound."""
    for number in range(1, 255):
        with socket.socket() as lock:
            try:
                lock.bind((f"127.77.{number}.254", LOCK_PORT))
            except OSError:
                continue
            yield f"127.77.{number}"
            return
    raise RuntimeError("no part of the loopback network is free")
