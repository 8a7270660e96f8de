"""A ScaledObject at work: what KEDA's operator and the HorizontalPodAutoscaler that it makes decide.

The formula is that of "Horizontal Pod Autoscaling: Algorithm details" in Kubernetes' documentation, with its
defaults; activation, cooldown and fallback are KEDA's ("Scaling Deployments" in its documentation, and its
`fallback.go`). What the autoscaler finds when it first decides counts as its first proposal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.k8s.manifests import Manifest

TOLERANCE = 0.1
SYNC_S = 15.0
"""How often the autoscaler decides."""


@dataclass(frozen=True)
class Trigger:
    """A query and what each replica is to have of its value. `null_is_zero`: an empty result is no error."""

    name: str
    query: str
    threshold: float
    null_is_zero: bool

    @classmethod
    def read(cls, manifest: Manifest) -> Trigger:
        """From a trigger of a ScaledObject."""
        assert (manifest["type"], manifest["metricType"]) == ("prometheus", "AverageValue")
        metadata = manifest["metadata"]
        null_is_zero = metadata.get("ignoreNullValues", "true") == "true"
        return cls(manifest["name"], metadata["query"], float(metadata["threshold"]), null_is_zero)


@dataclass
class _Rule:
    """How fast to go in one direction."""

    window_s: float
    pods: int
    period_s: float

    @classmethod
    def read(cls, manifest: Manifest) -> _Rule:
        [policy] = manifest["policies"]
        assert policy["type"] == "Pods"
        return cls(manifest["stabilizationWindowSeconds"], policy["value"], policy["periodSeconds"])


@dataclass
class Autoscaler:
    """How many replicas a ScaledObject wants; `decide` is called every `SYNC_S` seconds.

    `events`: the moments at which the number changed, and by how much.
    """

    scaled: Manifest
    events: list[tuple[float, int]] = field(default_factory=list)
    _proposals: list[tuple[float, int]] = field(default_factory=list)
    _failures: dict[str, int] = field(default_factory=dict)
    _active_at: float = -math.inf

    def __post_init__(self) -> None:
        spec = self.scaled["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        self.triggers = [Trigger.read(each) for each in spec["triggers"]]
        self._least: int = spec["minReplicaCount"]
        self._most: int = spec["maxReplicaCount"]
        self._up, self._down = _Rule.read(behavior["scaleUp"]), _Rule.read(behavior["scaleDown"])
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"

    @property
    def target(self) -> str:
        """The Deployment that is scaled."""
        name: str = self.scaled["spec"]["scaleTargetRef"]["name"]
        return name

    def decide(self, now: float, values: Sequence[float | None], current: int) -> int:
        """Return how many replicas there shall be.

        `now`: seconds of any clock. `values`: what the triggers' queries gave, None where one gave an error.
        """
        if not self._proposals:
            self._proposals.append((now, current))
        wanted = self._activate(now, values, current)
        if wanted is None:
            wanted = self._scale(now, self._with_fallback(values, current), current)
        if wanted != current:
            self.events.append((now, wanted - current))
        return wanted

    def _activate(self, now: float, values: Sequence[float | None], current: int) -> int | None:
        """KEDA's part: between none and one. None: the autoscaler decides."""
        if any(value is not None and value > 0 for value in values):
            self._active_at = now
            return None if current else max(1, self._least)
        if current == 0:
            return 0 if self._least == 0 else self._least
        if self._least == 0 and None not in values:
            idle = now - self._active_at > self.scaled["spec"]["cooldownPeriod"]
            return 0 if idle else None
        return None

    def _with_fallback(self, values: Sequence[float | None], current: int) -> list[float | None]:
        """Replace values that failed too often by what the fallback's number of replicas would have."""
        fallback, found = self.scaled["spec"]["fallback"], []
        for trigger, value in zip(self.triggers, values, strict=True):
            failures = self._failures.get(trigger.name, 0) + 1 if value is None else 0
            self._failures[trigger.name] = failures
            if failures > fallback["failureThreshold"]:
                value = trigger.threshold * max(fallback["replicas"], current)
            found.append(value)
        return found

    def _scale(self, now: float, values: Sequence[float | None], current: int) -> int:
        """The autoscaler's part: the largest proposal of all metrics, not too soon and not too fast."""
        known = [(t, v) for t, v in zip(self.triggers, values, strict=True) if v is not None]
        if not known:
            return current
        proposal = max(_proposal(trigger, value, current) for trigger, value in known)
        if len(known) < len(values) and proposal < current:
            return current  # a metric that is missing might have wanted more
        proposal = min(max(proposal, self._least, 1), self._most)
        lowest = min([proposal, *self._proposed(now, self._up)])
        highest = max([proposal, *self._proposed(now, self._down)])
        self._proposals.append((now, proposal))
        wanted = min(max(current, lowest), highest)
        if wanted > current:
            return min(wanted, current - self._changed(now, self._up, 1) + self._up.pods)
        return max(wanted, current + self._changed(now, self._down, -1) - self._down.pods)

    def _proposed(self, now: float, rule: _Rule) -> list[int]:
        """What was proposed before, within the rule's window."""
        return [wanted for at, wanted in self._proposals if now - at < rule.window_s]

    def _changed(self, now: float, rule: _Rule, sign: int) -> int:
        """By how many pods the number has changed in one direction within the policy's period."""
        return sum(abs(count) for at, count in self.events if now - at < rule.period_s and count * sign > 0)


def _proposal(trigger: Trigger, value: float, current: int) -> int:
    """How many replicas bring the value of each to its threshold; as many as now, if it nearly is there."""
    if current and abs(value / (trigger.threshold * current) - 1) <= TOLERANCE:
        return current
    return math.ceil(value / trigger.threshold)
