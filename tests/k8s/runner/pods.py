"""A pod as a process on a loopback address of its own: started, probed and stopped as the kubelet does it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.k8s import dockerfile
from tests.k8s.manifests import Workload
from tests.k8s.runner.probes import Probe

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 10, 300
"""Between restarts of a container: none before the first, then this, doubled each time."""

NOTICE_S = 3.0
"""How long clients still reach a pod that is being deleted: nodes and DNS servers learn of it late."""

CACHES = ("HOME", "TMPDIR")

WITH_US = ["setpriv", "--pdeathsig", "KILL"]
"""Before a command: nothing stays if the tests' own process is killed."""


@dataclass(frozen=True)
class Node:
    """What all pods have from their machine: its DNS server's address, and the folders behind the claims."""

    dns: str
    folder: Path

    def claim(self, name: str) -> Path:
        """The folder behind a PersistentVolumeClaim."""
        return _made(self.folder / "claims" / name)


@dataclass
class Pod:
    """One replica. `revision`: what it was made from; `address`: its own, with the manifest's ports.

    A pod that is `deleted` leaves its Services after `NOTICE_S`, while its process goes on through preStop
    and its grace period; then it is `gone`. `ready_since`: of `time.monotonic()`.
    """

    name: str
    workload: Workload
    revision: int
    address: str
    node: Node
    ready_since: float | None = None
    deleted: bool = False
    served_until: float = 0.0
    gone: bool = False
    restarts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Begin to run it, until `delete`."""
        self._tasks.append(asyncio.create_task(self._run(), name=self.name))

    @property
    def ready(self) -> bool:
        """Whether it is ready, and shall stay."""
        return self.ready_since is not None and not self.deleted

    @property
    def published(self) -> bool:
        """Whether its Services send to it."""
        return self.ready_since is not None and (not self.deleted or time.monotonic() < self.served_until)

    @property
    def ports(self) -> dict[str, int]:
        """The container's ports by name."""
        return {port["name"]: port["containerPort"] for port in self.workload.container["ports"]}

    @property
    def pid(self) -> int:
        """The number of its process, which must be running."""
        assert self._process is not None and self._process.poll() is None, f"{self.name} does not run"
        return self._process.pid

    def log(self) -> str:
        """What it has printed, restarts included."""
        return "".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("*.log")))

    def lines(self, message: str) -> list[dict[str, Any]]:
        """Its log lines with this message."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == message]

    def calls(self, method: str) -> list[float]:
        """When each call of an RPC that has ended began, in seconds since the epoch."""
        ended = [line for line in self.lines("call") if line["method"] == method]
        return [datetime.fromisoformat(line["time"]).timestamp() - line["seconds"] for line in ended]

    def environment(self) -> dict[str, str]:
        """The image's variables and the manifest's, with this machine's folders and addresses in them.

        All interfaces are this pod's address; names are resolved by the runner's DNS server; what is mounted
        is a folder; networks use one thread, since all pods share this machine's cores.
        """
        image = dockerfile.read(self.workload.name)["run"].environment()
        mounts = self._mounts()
        paths = "|".join(map(re.escape, sorted(mounts, key=len, reverse=True)))
        found = {"OMP_NUM_THREADS": "1"}
        for name, value in (image | self.workload.environment).items():
            value = value.replace("dns:///", f"dns://{self.node.dns}/")
            if str(self.node.folder) not in value:  # else a test has given it
                value = re.sub(rf"(?<!\w)(?:{paths})(?=/|$)", lambda match: str(mounts[match[0]]), value)
            found[name] = self.address if name.endswith("_HOST") and value == "0.0.0.0" else value
        return found | dict.fromkeys(CACHES, str(mounts["/tmp"]))

    def command(self) -> list[str]:
        """The image's entry point, or the manifest's command, with the manifest's arguments."""
        image = dockerfile.read(self.workload.name)["run"]
        entry = self.workload.container.get("command") or image.json("ENTRYPOINT")
        arguments = self.workload.container.get("args") or image.json("CMD")
        return [str(Path(sys.executable).parent / Path(entry[0]).name), *entry[1:], *arguments]

    def delete(self) -> None:
        """Begin to stop it as the kubelet does: preStop, SIGTERM, and SIGKILL after its grace period."""
        if not self.deleted:
            self.deleted, self.served_until = True, time.monotonic() + NOTICE_S
            self._tasks.append(asyncio.create_task(self._stop()))

    def kill(self) -> None:
        """End its process at once, as the kernel does when memory is short; the kubelet starts another."""
        os.killpg(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """End it without a grace period."""
        self.deleted = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._end()
        self.gone = True

    @property
    def _folder(self) -> Path:
        return _made(self.node.folder / "pods" / self.name)

    def _mounts(self) -> dict[str, Path]:
        """The folder behind each of the container's mount paths."""
        volumes = {volume["name"]: volume for volume in self.workload.pod["volumes"]}
        found = {}
        for mount in self.workload.container["volumeMounts"]:
            claim = volumes[mount["name"]].get("persistentVolumeClaim")
            own = self._folder / "volumes" / mount["name"]
            found[mount["mountPath"]] = self.node.claim(claim["claimName"]) if claim else _made(own)
        return found

    async def _run(self) -> None:
        """Keep the container running, as restartPolicy Always says."""
        backoff = 0
        while not self.deleted:
            self._launch()
            probing = asyncio.create_task(self._probe())
            try:
                await self._exit()
            finally:
                probing.cancel()
                self.ready_since = None
            if self.deleted:
                break
            await asyncio.sleep(backoff)
            backoff = min(max(2 * backoff, FIRST_BACKOFF_S), LONGEST_BACKOFF_S)
            self.restarts += 1

    def _launch(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ATELIER_")}
        with (self._folder / f"{self.restarts:03}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*WITH_US, *self.command()],
                env=environment | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its children end with it, as in a container
            )

    async def _exit(self) -> None:
        while self._process is not None and self._process.poll() is None:
            await asyncio.sleep(0.05)
        self._end()

    def _end(self) -> None:
        """End what is left of the process and of its children."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    async def _probe(self) -> None:
        """Start-up first; then readiness and liveness. A container whose probe says so is stopped."""
        if not await self._holds("startupProbe"):
            await self._terminate()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_readiness())
            group.create_task(self._follow_liveness())

    async def _holds(self, name: str) -> bool:
        async for found in self._results(name):
            return found
        raise AssertionError("a probe never ends")

    def _results(self, name: str) -> AsyncIterator[bool]:
        return Probe.read(self.workload.container[name], self.ports).results(self.address)

    async def _follow_readiness(self) -> None:
        async for found in self._results("readinessProbe"):
            if not found:
                self.ready_since = None
            elif self.ready_since is None:
                self.ready_since = time.monotonic()

    async def _follow_liveness(self) -> None:
        async for found in self._results("livenessProbe"):
            if not found:
                await self._terminate()
                return

    async def _stop(self) -> None:
        ends = time.monotonic() + self.workload.pod["terminationGracePeriodSeconds"]
        hook = self.workload.container.get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
        await asyncio.sleep(min(hook["sleep"]["seconds"], ends - time.monotonic()))
        await self._terminate(ends - time.monotonic())
        self.gone = True

    async def _terminate(self, grace_s: float | None = None) -> None:
        """SIGTERM, and SIGKILL if that is not enough; by default within the pod's whole grace period."""
        if self._process is None or self._process.poll() is not None:
            return
        grace_s = self.workload.pod["terminationGracePeriodSeconds"] if grace_s is None else grace_s
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(max(grace_s, 0)):
                await self._exit()
        except TimeoutError:
            self._end()


async def all_of(*awaited: Awaitable[None]) -> None:
    """Wait for all, those after an error included; then raise the first error."""
    for found in await asyncio.gather(*awaited, return_exceptions=True):
        if found is not None:
            raise found


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
