"""Work that keeps a device thread busy until a test releases it."""

import asyncio
import threading

from atelier_runtime.device_job import Job


class Blocker:
    """A job that runs until it is released, and checks in between."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self, job: Job[str]) -> str:
        self.started.set()
        while not self.release.wait(0.005):
            job.check()
        return "done"

    async def running(self) -> None:
        assert await asyncio.to_thread(self.started.wait, 10)
