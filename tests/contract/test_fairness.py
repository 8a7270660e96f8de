"""Clients share what the services can do, whatever their number of connections; over real sockets.

Compared are counts of pictures, never times: the devices take a fixed time for each.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.contract.queued_stack import QueuedStack

FIRST_PICTURES = 16
"""Not counted: until then those that were refused at first have come again."""
PICTURES = 80
IMPATIENCE_S = 0.02
LONGEST_S = 60.0


@pytest.fixture(scope="module")
def queued() -> Iterator[QueuedStack]:
    with QueuedStack() as stack:
        yield stack


class Crowd:
    """Clients, told apart by their addresses, and the pictures that each got."""

    def __init__(self, url: str, **body: object) -> None:
        self.url = url
        self.body = {"prompt": "a red apple", "width": 256, "height": 256, **body}
        self.pictures: Counter[str] = Counter()
        self.others: Counter[int] = Counter()
        self.without_retry_after = 0

    async def run(self, connections: dict[str, int], impatient: str) -> None:
        """Ask until `PICTURES` are counted; all but one client come again as Retry-After says."""
        asking = [
            asyncio.create_task(self._ask(address, is_patient=address != impatient))
            for address, number in connections.items()
            for _ in range(number)
        ]
        end = time.monotonic() + LONGEST_S
        for goal in (FIRST_PICTURES, PICTURES):
            self.pictures.clear()
            while self.pictures.total() < goal:
                in_time = time.monotonic() < end
                assert in_time and set(self.others) <= {429}, (self.pictures, self.others)
                await asyncio.sleep(0.01)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, address: str, *, is_patient: bool) -> None:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, transport=transport) as client:
            while True:
                response = await client.post("/generate", json=self.body)
                if response.status_code == 200:
                    self.pictures[address] += 1
                    continue
                self.others[response.status_code] += 1
                retry_after = response.headers.get("Retry-After")
                self.without_retry_after += retry_after is None
                await asyncio.sleep(float(retry_after or 1) if is_patient else IMPATIENCE_S)


@pytest.mark.parametrize("restore", [False, True])
async def test_each_client_gets_its_share_whatever_its_number_of_connections(
    queued: QueuedStack, restore: bool
) -> None:
    crowd = Crowd(queued.url, use_face_restoration=restore)
    connections = {"127.0.0.2": 20, "127.0.0.3": 2, "127.0.0.4": 2, "127.0.0.5": 2}
    await crowd.run(connections, impatient="127.0.0.2")
    share = PICTURES / len(connections)
    assert all(0.8 * share <= crowd.pictures[address] <= 1.2 * share for address in connections), (
        crowd.pictures
    )
    assert crowd.others[429] and crowd.without_retry_after == 0
