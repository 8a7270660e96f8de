"""No space left where the gateway keeps its jobs and its log, and where a service keeps its log and files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.chaos.clients import Answer, ask, client_of, count, health_of, kinds, not_completed, submit
from bench.chaos.figures import Result, at_most, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Service, Stack

_DISK_MIB = 16
_WAIT_S = 60.0


def small_disk(mount: Path) -> list[str]:
    """Return a command that executes another one, with a disk of its own of 16 MiB at a folder.

    The disk is in memory, in a mount namespace that ends with the process. Its log goes there, too.
    """
    script = f'mount -t tmpfs -o size={_DISK_MIB}m none "$0" && exec "$@" >"$0/log" 2>&1'
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--mount", "sh", "-c", script, str(mount)]


def can_mount(folder: Path) -> bool:
    """Return whether this machine lets us mount one."""
    with contextlib.suppress(OSError):
        return subprocess.run([*small_disk(folder), "true"], capture_output=True).returncode == 0
    return False


@contextlib.contextmanager
def full(service: Service, mount: Path) -> Iterator[None]:
    """Leave no byte of the disk while the context lasts."""
    filler = Path(f"/proc/{service.pid}/root{mount}/filler")
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (2**16, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    try:
        yield
    finally:
        filler.unlink()


async def disk_full(stack: Stack, scale: Scale) -> Result:
    """The disks of a gateway and of a restorer are full for a while, as they are at work."""
    mount = stack.folder / "disk"
    mount.mkdir()
    if not can_mount(mount):
        return Result(skipped="this machine does not let us mount a file system in memory")
    prefix = small_disk(mount)
    answers: list[Answer] = []
    jobs: list[str] = []
    of_files = {"TMPDIR": str(mount), "HOME": str(mount)}
    with (
        stack.service("restorer", {"LOG_LEVEL": "debug"}, of_files, prefix) as restorer,
        stack.another_gateway(
            {
                "LOG_LEVEL": "debug",
                "RESTORER": restorer.address,
                "JOBS_DATABASE": f"sqlite:///{mount}/jobs.db",
                "JOBS_FILES": f"file:{mount}/files",
                "JOBS_AT_ONCE": 1,
            },
            of_files,
            prefix,
        ) as gateway,
    ):
        for each in (restorer, gateway):
            await asyncio.to_thread(each.wait_ready)
        async with client_of(gateway.url, 60) as client:
            await submit(client)
            jobs += [(await submit(client))[1] for _ in range(scale.of(6, 3))]
            refused: list[Answer] = []
            with full(gateway, mount), full(restorer, mount):
                for _ in range(scale.of(4, 1)):
                    answers += [await ask(client, "/generate"), await ask(client, "/restore")]
                    refused.append(await submit_another(client, jobs))
                said, took = await health_of(client)
            failed = await not_completed(client, [job for job in jobs if job], _WAIT_S)
            _, job = await submit(client)
            failed += ["refused"] if not job else await not_completed(client, [job], _WAIT_S)
            alive = [each.exit_code is None for each in (restorer, gateway)]
    return Result(
        [
            none_of("requests without jobs that were not answered", count(answers, _is_not_whole), "R8"),
            none_of("jobs refused without 503 or 507 and Retry-After", count(refused, _is_unclear), "R8"),
            none_of("jobs accepted before, meanwhile, and one after, that failed", len(failed), "R8"),
            none_of("/health says anything but degraded", int(said != "degraded"), "R8"),
            at_most("/health", took, 3, "s", "R8", timed=True),
            none_of("processes that ended", alive.count(False), "R8"),
        ],
        [
            {
                "answers": kinds(answers),
                "jobs": kinds(refused),
                "accepted": ", ".join(failed) or "all completed",
            }
        ],
    )


async def submit_another(client: httpx.AsyncClient, jobs: list[str]) -> Answer:
    """Submit a job; add its ID to the others if it was accepted, so that it has to complete as they do."""
    answer, job = await submit(client)
    jobs += [job] if job else []
    return answer


def _is_not_whole(answer: Answer) -> bool:
    return not answer.is_whole


def _is_unclear(answer: Answer) -> bool:
    return not (answer.is_whole or answer.is_refusal or answer.status == 507)
