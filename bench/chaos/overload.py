"""More clients than can be served, and one of them greedy."""

from __future__ import annotations

from collections.abc import Sequence

from bench import load
from bench.chaos.figures import Figure, Result, at_least, at_most, informs, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Stack
from bench.report import percentile

SLOTS = 9
"""Clients that keep the chain busy: one is served, eight wait in the generator's queue."""
PLACES = 2 * SLOTS
"""Before the slower service, where the other one is full of requests that go on to it."""
TIMES = 5
GROWTH = 5
TELLING_PICTURES = 156
"""Of each client; with fewer, their shares inform."""
_ALLOWED = (200, 429, 503)


async def overload(stack: Stack, scale: Scale) -> Result:
    """Nine clients, which keep the chain busy, then five times as many for 60 s; each obeys Retry-After.

    The first 15 s of each are not counted. What is unfinished at the end counts among the accepted ones with
    its age, and a lost connection or a picture with its faces as they were drawn as no picture.

    Clients and probes share the machine with what they measure: by how much a process that only sleeps wakes
    up too late, and by how much the clients' event loop does, is measured beside them and informs.
    """
    seconds, warm_up = scale.of(60.0, 4.0), scale.of(15.0, 2.0)
    busy, _ = await load.phase(stack.url, load.crowd_of(SLOTS), seconds / 2, warm_up_s=warm_up)
    before = {each.name: each.usage().private_kib for each in stack.services}
    crowd, probes = await load.phase(stack.url, load.crowd_of(TIMES * SLOTS), seconds, warm_up_s=warm_up)
    capacity = sum(each.pictures for each in busy) / (seconds / 2)
    goodput = sum(each.pictures for each in crowd) / seconds
    accepted, refused = load.accepted(crowd), load.together(crowd, 429) + load.together(crowd, 503)
    displaced = [seconds for each in crowd for seconds in each.displaced]
    others = sum(len(s) for each in crowd for status, s in each.seconds.items() if status not in _ALLOWED)
    share = 100 * goodput / capacity if capacity else 0.0
    livez_ms, late_ms, clients_late_ms = (
        1000 * percentile(each, 0.99) for each in (probes.seconds, probes.late, probes.clients_late)
    )
    figures: list[Figure] = [
        informs("capacity", capacity, "pictures/s", "R6"),
        at_least("goodput of capacity", share, 90, "%", "R6", timed=True),
        none_of("neither a whole picture, 429 nor 503", others, "R6"),
        none_of("refusals without Retry-After", sum(each.without_retry_after for each in crowd), "R6"),
    ]
    if accepted and capacity:
        bound = 1.2 * PLACES / capacity
        figures += [
            informs("accepted, median", percentile(accepted, 0.5), "s", "R6"),
            at_most(
                "accepted, p99",
                percentile(accepted, 0.99),
                round(bound, 1),
                "s",
                "R6",
                timed=True,
                of="queues' bound",
            ),
        ]
    if refused:
        figures += [
            informs("refused, median", 1000 * percentile(refused, 0.5), "ms", "R6"),
            at_most("refused, p99", 1000 * percentile(refused, 0.99), 50, "ms", "R6", timed=True),
        ]
    share = 100 * len(displaced) / max(1, len(displaced) + len(refused))
    figures.append(informs("refused after a wait, of all that were refused", share, "%", "R6"))
    if displaced:
        figures.append(informs("these had waited, median", percentile(displaced, 0.5), "s", "R6"))
    figures += [
        *shares_of(crowd),
        at_most("/livez meanwhile, p99", livez_ms, 100, "ms", "R1", "R6", timed=True),
        informs("the machine's own delay, p99", late_ms, "ms", "R1", "R6"),
        informs("the clients' own delay, p99", clients_late_ms, "ms", "R6"),
        none_of("/livez meanwhile, failed", probes.failed, "R1", "R6"),
    ]
    for each in stack.services:
        grown = 100 * (each.usage().private_kib / before[each.name] - 1)
        figures.append(at_most(f"memory more, {each.name}", grown, GROWTH, "%", "R6", timed=True))
    return Result(figures)


def shares_of(crowd: Sequence[load.Seen]) -> list[Figure]:
    """Return the least and the largest share of a client in all whole pictures, as multiples of 1/N.

    They have the goals of `fairness` only if each has so many pictures that these tell: if n fall to a client
    by chance, 95 of 100 shares are within 2 / sqrt(n), and of 45 clients the furthest is at about
    2.5 / sqrt(n). That is more than 0.2 below 156 pictures each; two cores make a few.
    """
    shares = load.shares(crowd)
    least, largest = "smallest share of a client, of 1/N", "largest share of a client, of 1/N"
    if sum(each.pictures for each in crowd) < TELLING_PICTURES * len(crowd):
        return [informs(least, min(shares), "", "R6"), informs(largest, max(shares), "", "R6")]
    return [at_least(least, min(shares), 0.8, "", "R6"), at_most(largest, max(shares), 1.2, "", "R6")]


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
