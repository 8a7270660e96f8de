"""The places of image workers: who waits for one, and who is next."""

from __future__ import annotations

import asyncio

from atelier_runtime.images.slots import Slots, Work


async def test_encoding_does_not_wait_behind_a_flood_of_decoding() -> None:
    """One more process encodes while decoding occupies all, and what waits to be encoded goes first."""
    slots = Slots(2)
    order: list[str] = []

    async def work(name: Work, hold: asyncio.Event) -> None:
        await slots.acquire(name)
        order.append(name)
        await hold.wait()
        slots.release(name)

    ends: dict[Work, asyncio.Event] = {"decode": asyncio.Event(), "encode": asyncio.Event()}
    flood = [asyncio.create_task(work("decode", ends["decode"])) for _ in range(50)]
    await asyncio.sleep(0)
    results = [asyncio.create_task(work("encode", ends["encode"])) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == ["decode", "decode", "encode"]
    assert (slots.waiting("decode"), slots.waiting("encode")) == (48, 4)
    ends["encode"].set()
    await asyncio.gather(*results)
    assert order[2:7] == ["encode"] * 5, "none of them has waited for decoding"
    ends["decode"].set()
    await asyncio.gather(*flood)
    assert order.count("decode") == 50


async def test_a_cancelled_wait_gives_its_place_to_the_next() -> None:
    slots = Slots(1)
    await slots.acquire("encode")
    waiting = [asyncio.create_task(slots.acquire("encode")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    slots.release("encode")  # and this one is given its place in the moment in which it is canceled
    waiting[1].cancel()
    await asyncio.wait_for(waiting[2], 20)
    assert [call.cancelled() for call in waiting] == [True, True, False]
    slots.release("encode")
    await asyncio.wait_for(slots.acquire("decode"), 20)
