"""More clients than can be served, and one of them greedy."""

from __future__ import annotations

from bench import load
from bench.chaos.figures import Figure, Result, at_least, at_most, informs, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Stack
from bench.report import percentile

SLOTS = 9
"""Clients that keep the chain busy: one is served, eight wait in the generator's queue."""
TIMES = 5
GROWTH = 5
_ALLOWED = (200, 429, 503)


async def overload(stack: Stack, scale: Scale) -> Result:
    """Nine clients, which keep the chain busy, then five times as many for 60 s; each obeys Retry-After.

    The first 15 s of each are not counted.
    """
    seconds, warm_up = scale.of(60.0, 4.0), scale.of(15.0, 2.0)
    busy, _ = await load.phase(stack.url, load.crowd_of(SLOTS), seconds / 2, warm_up_s=warm_up)
    before = {each.name: each.usage().private_kib for each in stack.services}
    crowd, probes = await load.phase(stack.url, load.crowd_of(TIMES * SLOTS), seconds, warm_up_s=warm_up)
    capacity = sum(each.pictures for each in busy) / (seconds / 2)
    goodput = sum(each.pictures for each in crowd) / seconds
    accepted, refused = load.together(crowd, 200), load.together(crowd, 429) + load.together(crowd, 503)
    others = sum(len(s) for each in crowd for status, s in each.seconds.items() if status not in _ALLOWED)
    figures: list[Figure] = [
        informs("capacity", capacity, "pictures/s", "R6"),
        at_least("goodput of capacity", 100 * goodput / max(capacity, 1e-9), 90, "%", "R6"),
        none_of("neither a picture, 429 nor 503", others, "R6"),
        none_of("refusals without Retry-After", sum(each.without_retry_after for each in crowd), "R6"),
    ]
    if accepted and capacity:
        bound = 1.2 * SLOTS / capacity
        figures += [
            informs("accepted, median", percentile(accepted, 0.5), "s", "R6"),
            at_most(
                "accepted, p99", percentile(accepted, 0.99), round(bound, 1), "s", "R6", of="queue's bound"
            ),
        ]
    if refused:
        figures += [
            informs("refused, median", 1000 * percentile(refused, 0.5), "ms", "R6"),
            at_most("refused, p99", 1000 * percentile(refused, 0.99), 50, "ms", "R6"),
        ]
    figures.append(at_most("/livez meanwhile, p99", 1000 * percentile(probes, 0.99), 100, "ms", "R1", "R6"))
    for each in stack.services:
        grown = 100 * (each.usage().private_kib / before[each.name] - 1)
        figures.append(at_most(f"memory more, {each.name}", grown, GROWTH, "%", "R6"))
    return Result(figures)


async def fairness(stack: Stack, scale: Scale) -> Result:
    """One client with 20 connections and no patience, four with two connections that obey Retry-After."""
    seconds, warm_up = scale.of(60.0, 5.0), scale.of(15.0, 3.0)
    greedy = load.Client("127.0.0.9", 20, patient=False)
    others = [load.Client(f"127.0.0.{10 + n}", 2) for n in range(4)]
    seen, _ = await load.phase(stack.url, [greedy, *others], seconds, warm_up_s=warm_up)
    first, *rest = load.shares(seen)
    return Result(
        [
            at_most("share of the greedy one, of 1/N", first, 1.2, "", "R6"),
            at_least("smallest share of the others, of 1/N", min(rest), 0.8, "", "R6"),
            at_most("largest share of the others, of 1/N", max(rest), 1.2, "", "R6"),
        ]
    )
