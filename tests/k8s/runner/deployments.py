"""A Deployment: how many pods there are, and how new ones take the place of old ones."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable

from tests.k8s.manifests import Workload
from tests.k8s.runner.pods import Node, Pod, all_of

DEFAULT_SHARE = "25%"
"""Kubernetes' own maxSurge and maxUnavailable."""


class Deployment:
    """The pods of a workload. `reconcile`, called often, does what Kubernetes' controllers do.

    `replicas`: how many there shall be, which `kubectl scale` and autoscalers set; at first the manifest's
    number, or one where the manifest leaves it to an autoscaler.
    """

    def __init__(self, workload: Workload, node: Node, new_address: Callable[[], str]) -> None:
        self.workload = workload
        self.replicas: int = workload.deployment["spec"].get("replicas", 1)
        self.pods: list[Pod] = []
        self._node, self._new_address = node, new_address
        self._revision = 1
        self._numbers = itertools.count(1)

    def restart(self) -> None:
        """Replace all pods, as `kubectl rollout restart` does."""
        self._revision += 1

    def set_environment(self, **variables: str) -> None:
        """Change the container's variables and roll that out, as `kubectl set env` does."""
        self.workload = copy.deepcopy(self.workload)  # older pods keep theirs
        kept = [e for e in self.workload.container.get("env", []) if e["name"] not in variables]
        self.workload.container["env"] = kept + [{"name": k, "value": v} for k, v in variables.items()]
        self._revision += 1

    def available(self, pod: Pod) -> bool:
        """Whether a pod has been ready for long enough to count in a rollout."""
        least: float = self.workload.deployment["spec"].get("minReadySeconds", 0)
        return pod.ready and pod.ready_since is not None and time.monotonic() - pod.ready_since >= least

    @property
    def rolled_out(self) -> bool:
        """Whether all replicas are of the newest revision and available, and no others are left."""
        return len(self.pods) == self.replicas and all(
            self.available(pod) and pod.revision == self._revision for pod in self.pods
        )

    def reconcile(self) -> None:
        """Make and delete pods, as far as the strategy allows now."""
        self.pods = [pod for pod in self.pods if not pod.gone]
        staying = [pod for pod in self.pods if not pod.deleted]
        new = [pod for pod in staying if pod.revision == self._revision]
        old = [pod for pod in staying if pod.revision != self._revision]
        strategy = self.workload.deployment["spec"].get("strategy", {})
        if strategy.get("type") == "Recreate":
            self._recreate(new, old)
        else:
            self._roll(new, old, strategy.get("rollingUpdate", {}))
        surplus = max(len(new) - self.replicas, 0)
        new.reverse()  # the newest first, of those that are as ready
        for pod in sorted(new, key=lambda pod: pod.ready)[:surplus]:
            pod.delete()

    async def close(self) -> None:
        """End all pods at once."""
        await all_of(*(pod.close() for pod in self.pods))

    def _recreate(self, new: list[Pod], old: list[Pod]) -> None:
        for pod in old:
            pod.delete()
        if all(pod.revision == self._revision for pod in self.pods):  # those that are being stopped too
            self._make(self.replicas - len(new))

    def _roll(self, new: list[Pod], old: list[Pod], limits: dict[str, int | str]) -> None:
        surge = _share(limits.get("maxSurge", DEFAULT_SHARE), self.replicas, math.ceil)
        missing = _share(limits.get("maxUnavailable", DEFAULT_SHARE), self.replicas, math.floor)
        self._make(min(self.replicas - len(new), self.replicas + surge - len(new) - len(old)))
        least = self.replicas - missing
        starting = sum(not self.available(pod) for pod in new)
        failing = [pod for pod in old if not self.available(pod)]
        for pod in failing[: max(len(new) + len(old) - least - starting, 0)]:
            pod.delete()
        serving = [pod for pod in old if self.available(pod)]
        available = len(new) - starting + len(serving)
        for pod in serving[: max(available - least, 0)]:
            pod.delete()

    def _make(self, count: int) -> None:
        for _ in range(count):
            name = f"{self.workload.name}-{next(self._numbers)}"
            pod = Pod(name, self.workload, self._revision, self._new_address(), self._node)
            pod.start()
            self.pods.append(pod)


def _share(limit: int | str, of: int, rounded: Callable[[float], int]) -> int:
    """A number, or what a share such as 25% is of a number."""
    return rounded(int(limit.removesuffix("%")) * of / 100) if isinstance(limit, str) else limit
