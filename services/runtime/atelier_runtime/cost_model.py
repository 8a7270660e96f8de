"""Seconds and memory that work will take, from what work of its kind has taken in this process.

For each kind of work the seconds of a call are a line over what it computes, `fixed + rate * amount`,
fitted by least squares on relative errors to the median of each variant (a size, a number of rows);
outliers count little. A variant that was seen is corrected by its own median, any other by those of about
its amount. How far off the predictions were is recorded with each observation, and is the spread of the
next ones.

History is in memory, bounded, and begins anew with each process: another device, driver or set would not take
the same time. Of a kind that was not seen the figures are a guess, with a wide spread.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

_RECENT = 5  # observations of a variant: few, so that the median follows when the device slows down
_MAX_VARIANTS = 64  # of a kind; the least recently seen is forgotten
_MAX_RATIOS = 64
_OUTLIER = 0.3  # a logarithm: of a median this far from the line (35 %) half of the weight is left
_ROUNDS = 5
_PULL = 0.01  # of the fixed part towards 0, where the amounts that were seen hardly differ
_OWN_DOUBT = 0.5  # n observations of a variant count as n / (n + this)
_NEAR = 0.5  # a logarithm of amounts: the distance at which a neighbor's correction counts 0.6 of its weight
_DISTANCE_SPREAD = (
    0.3  # the spread of what is x times as much as anything seen is wider by x to the power of this
)
_LOWEST, _HIGHEST = 0.1, 0.9  # quantiles of the range
# Ratios of actual to expected that count as seen, until there are enough real ones to outvote them.
_SEEN_RATIOS = (0.75, 0.95, 1.05, 1.35)
_UNSEEN_RATIOS = (0.5, 0.8, 1.25, 2.0)
_GUESS_RATIOS = (0.25, 4.0)
_SMALL = 0.1  # a part of the whole that does not matter for what is known of it
_MANY = 3
_TINY = 1e-12  # instead of a divisor of 0
FRESH_S = 600.0
"""Seconds after which what was seen of a variant proves nothing any more."""


class Work(NamedTuple):
    """What a stage does, as far as its time and memory depend on it.

    `kind`: what runs, such as one network. `variant`: works of a kind with equal variants cost the same
    per call. `calls`: how often it runs, `amount`: what all calls compute, in any unit. `held`: what a
    call has in memory, in any unit. `like`: the kind whose figures are used as long as this one was not
    seen. `guess_s`: the seconds as long as neither was.
    """

    kind: str
    variant: Hashable
    calls: int
    amount: float
    held: float
    like: str = ""
    guess_s: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What work is expected to take. `low_s` to `high_s`: the middle 80 % of what similar predictions came
    to.

    `observations`: of its own variant. `proven`: they are several, and one is recent. `peak_bytes`: of the
    device's memory; None if unknown.
    """

    seconds: float
    low_s: float
    high_s: float
    observations: int = 0
    proven: bool = False
    peak_bytes: int | None = None

    def times(self, count: float) -> Cost:
        """Return the cost of doing it again and again."""
        return Cost(
            self.seconds * count,
            self.low_s * count,
            self.high_s * count,
            self.observations,
            self.proven,
            self.peak_bytes,
        )


def total(costs: Iterable[Cost]) -> Cost:
    """Return the cost of one thing after the other: what slows one down is assumed to slow down all.

    The observations are those of the least known part that takes a tenth of the time or more. The peak is not
    summed up: it is None.
    """
    parts = list(costs)
    seconds = sum(part.seconds for part in parts)
    large = [part for part in parts if part.seconds >= _SMALL * seconds]
    return Cost(
        seconds,
        sum(part.low_s for part in parts),
        sum(part.high_s for part in parts),
        min((part.observations for part in large), default=0),
        bool(large) and all(part.proven for part in large),
    )


@dataclass(eq=False)
class _Variant:
    """What was seen of a variant; `amount` and the seconds are those of a call."""

    amount: float
    held: float
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    peaks: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))
    latest: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(eq=False)
class _Kind:
    """What was seen of a kind. `ratios`: of actual to expected seconds, [unseen, seen] variants."""

    provisional: bool
    variants: dict[Hashable, _Variant] = field(default_factory=dict)
    ratios: tuple[deque[float], deque[float]] = field(
        default_factory=lambda: (deque(maxlen=_MAX_RATIOS), deque(maxlen=_MAX_RATIOS))
    )
    line: tuple[float, float] | None = None
    is_outdated: bool = False
    """The line is from before the latest observations; it is fitted anew by whoever asks for an estimate."""


class CostModel:
    """Learns from observations; in any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that never run backwards."""
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}
        self._lock = threading.Lock()

    def knows(self, kind: str) -> bool:
        """Return whether work of a kind was seen."""
        with self._lock:
            return kind in self._kinds

    def observe(
        self, work: Work, seconds: float, peak_bytes: int | None = None, *, provisional: bool = False
    ) -> None:
        """Learn what work has taken.

        What is `provisional` is forgotten as soon as there is anything else of its kind: first runs of a
        process, which allocate, tune and compile.
        """
        if work.calls < 1 or not seconds > 0:
            return
        with self._lock:
            kind = self._kinds.get(work.kind)
            if kind is None or (kind.provisional and not provisional):
                kind = self._kinds[work.kind] = _Kind(provisional)
            elif not provisional:
                is_seen = work.variant in kind.variants
                kind.ratios[is_seen].append(seconds / (work.calls * _call_seconds(kind, work)))
            variant = kind.variants.pop(work.variant, None)
            if variant is None:
                variant = _Variant(work.amount / work.calls, work.held)
            kind.variants[work.variant] = variant  # the latest at the end
            if len(kind.variants) > _MAX_VARIANTS:
                del kind.variants[next(iter(kind.variants))]
            if self._clock() - variant.latest >= FRESH_S:
                variant.seconds.clear()  # one run decides whether the device is still as slow
            variant.seconds.append(seconds / work.calls)
            variant.latest = self._clock()
            if peak_bytes is not None:
                variant.peaks.append(peak_bytes)
            kind.is_outdated = True

    def estimate(self, work: Work) -> Cost:
        """Return what work is expected to take."""
        with self._lock:
            kind = self._kinds.get(work.kind)
            if kind is None:
                return self._from_another(work)
            if kind.is_outdated:
                kind.line, kind.is_outdated = None, False
            seconds = work.calls * _call_seconds(kind, work)
            variant = kind.variants.get(work.variant)
            low, high = _spread(kind, work, variant)
            count = len(variant.seconds) if variant and not kind.provisional else 0
            recent = variant is not None and self._clock() - variant.latest < FRESH_S
            low_s = low * seconds
            if variant is not None:  # it has been that fast just now, whatever the median says
                low_s = min(low_s, work.calls * min(variant.seconds))
            return Cost(
                seconds,
                low_s,
                high * seconds,
                count,
                proven=count >= _MANY and recent,
                peak_bytes=_peak(kind, work, variant),
            )

    def _from_another(self, work: Work) -> Cost:
        kind, seconds = self._kinds.get(work.like), work.guess_s
        if kind is not None:
            seconds = work.calls * _call_seconds(kind, work)
        low, high = _GUESS_RATIOS
        return Cost(seconds, low * seconds, high * seconds)


def _call_seconds(kind: _Kind, work: Work) -> float:
    """Return the expected seconds of a call."""
    if kind.line is None:
        kind.line = fit_line([(v.amount, v.median, len(v.seconds)) for v in kind.variants.values()])
    fixed, rate = kind.line
    amount = work.amount / work.calls
    variant = kind.variants.get(work.variant)
    near = [(variant, 1.0)] if variant else _neighbors(kind, amount)
    correction, weight = 0.0, _OWN_DOUBT
    for other, nearness in near:
        count = nearness * len(other.seconds)
        correction += count * math.log(other.median / max(fixed + rate * other.amount, _TINY))
        weight += count
    return (fixed + rate * amount) * math.exp(correction / weight)


def _neighbors(kind: _Kind, amount: float) -> list[tuple[_Variant, float]]:
    distances = [(v, _distance(v.amount, amount)) for v in kind.variants.values()]
    return [(v, math.exp(-0.5 * (distance / _NEAR) ** 2)) for v, distance in distances]


def _distance(one: float, other: float) -> float:
    return abs(math.log(max(one, _TINY) / max(other, _TINY)))


def _spread(kind: _Kind, work: Work, variant: _Variant | None) -> tuple[float, float]:
    """Return by what factors the work may take less and more than expected."""
    known = _SEEN_RATIOS if variant and not kind.provisional else _UNSEEN_RATIOS
    ratios = sorted([*kind.ratios[variant is not None], *known])
    low, high = _quantile(ratios, _LOWEST), _quantile(ratios, _HIGHEST)
    wider = 1.0
    if variant is None:
        nearest = min(_distance(v.amount, work.amount / work.calls) for v in kind.variants.values())
        wider = math.exp(_DISTANCE_SPREAD * nearest)
    return min(1.0, low) / wider, max(1.0, high) * wider


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values, interpolated between two of them."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _peak(kind: _Kind, work: Work, variant: _Variant | None) -> int | None:
    """Return the highest peak of the variant, or that of a line through two or more others."""
    if variant and variant.peaks:
        return max(variant.peaks)
    seen = [(v.held, float(max(v.peaks)), len(v.peaks)) for v in kind.variants.values() if v.peaks]
    if len({held for held, _, _ in seen}) < 2:
        return None
    fixed, rate = fit_line(seen)
    return round(fixed + rate * work.held)


def fit_line(points: Sequence[tuple[float, float, int]]) -> tuple[float, float]:
    """Return (fixed, rate), neither negative, of the line through points (x, y above 0, observations).

    Least squares of relative errors, weighted anew several times so that outliers count little (the Cauchy
    weights of robust regression: Holland and Welsch 1977).
    """
    x, y, counts = (np.asarray(column, np.float64) for column in zip(*points, strict=True))
    unit = float(np.median(x)) or 1.0  # so that both columns of the system have the same magnitude
    x = x / unit
    own_weights = counts / (counts + _OWN_DOUBT)
    weights = own_weights
    fixed, rate = 0.0, 0.0
    for _ in range(_ROUNDS):
        fixed, rate = _weighted_line(x, y, weights)
        errors = np.log(y / np.maximum(fixed + rate * x, _TINY))
        weights = own_weights / (1 + (errors / _OUTLIER) ** 2)
    return fixed, rate / unit


def _weighted_line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Minimize the sum of weights * (fixed / y + rate * x / y - 1)^2, and of _PULL * (fixed / median)^2."""
    one, other = 1 / y, x / y
    of_fixed, of_rate = (weights * one * one).sum(), (weights * other * other).sum()
    of_both = (weights * one * other).sum()
    for_fixed, for_rate = (weights * one).sum(), (weights * other).sum()
    pulled = of_fixed + _PULL / float(np.median(y)) ** 2
    determinant = pulled * of_rate - of_both**2
    if determinant <= 0:  # no amounts at all
        return float(for_fixed / of_fixed), 0.0
    fixed = (for_fixed * of_rate - for_rate * of_both) / determinant
    rate = (for_rate * pulled - for_fixed * of_both) / determinant
    if rate < 0:
        return float(for_fixed / of_fixed), 0.0
    if fixed < 0:
        return 0.0, float(for_rate / of_rate)
    return float(fixed), float(rate)
