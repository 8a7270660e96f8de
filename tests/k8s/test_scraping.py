"""The operator scrapes every pod often enough, under the names by which the queries ask for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.k8s import queries
from tests.k8s.manifests import Manifest, Workload, combined, of_kind, overlay, workloads

PROMETHEUS = "http://prometheus-operated.{}.svc:9090"
"""The operator's own Service, which every Prometheus of its namespace has."""

ALL = pytest.mark.parametrize("workload", workloads("autoscale"), ids=str)


def monitor(workload: Workload) -> Manifest:
    """The one PodMonitor that selects a Deployment's pods."""
    own = workload.labels.items()
    [found] = [
        monitor["spec"]
        for monitor in of_kind(workload.manifests, "PodMonitor").values()
        if monitor["spec"]["selector"]["matchLabels"].items() <= own
    ]
    return found


@ALL
def test_a_pod_is_scraped_where_it_tells_its_metrics(workload: Workload) -> None:
    [endpoint] = monitor(workload)["podMetricsEndpoints"]
    ports = {port["name"] for port in workload.container["ports"]}
    assert endpoint["port"] == ("metrics" if "metrics" in ports else "http")
    assert endpoint["path"] == "/metrics"


@ALL
def test_the_queries_know_a_pod_by_the_job_that_the_operator_gives_it(workload: Workload) -> None:
    job = workload.labels[monitor(workload)["jobLabel"]]
    assert job == f"atelier-{workload.name}"
    assert f'job="{job}"' in str(queries.alerts())


@ALL
def test_the_shortest_window_of_a_query_holds_several_scrapes(workload: Workload, tmp_path: Path) -> None:
    [endpoint] = monitor(workload)["podMetricsEndpoints"]
    interval_s = int(endpoint["interval"].removesuffix("s"))
    asked = [*queries.alerts().values(), *(query for query, _ in queries.autoscalers(tmp_path).values())]
    windows = re.findall(r"\[(\d+)m\]", str(asked))
    assert 60 * min(map(int, windows)) >= 4 * interval_s


def test_the_autoscalers_ask_the_prometheus_that_may_scrape(tmp_path: Path) -> None:
    """What stands in a trigger's metadata no schema knows."""
    policies = of_kind(overlay("autoscale"), "NetworkPolicy")
    [rule] = policies["atelier-metrics"]["spec"]["ingress"]
    [peer] = rule["from"]
    namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    rendered = [*overlay("autoscale"), *combined(tmp_path, ["keda", "scale-to-zero"])]
    triggers = [t for m in rendered if m["kind"] == "ScaledObject" for t in m["spec"]["triggers"]]
    assert len(triggers) == 3 + 5
    for trigger in triggers:
        assert trigger["type"] == "prometheus"
        metadata = trigger["metadata"]
        assert metadata.keys() == {"serverAddress", "query", "threshold", "ignoreNullValues"}
        asked = {matcher.label: matcher.value for matcher in queries.matchers_in(metadata["query"])}
        assert asked["namespace"] == queries.NAMESPACE, "others may have an Atelier in the same Prometheus"
        assert asked["job"].startswith("atelier-")
        assert metadata["serverAddress"] == PROMETHEUS.format(namespace)
        assert metadata["ignoreNullValues"] in ("true", "false") and float(metadata["threshold"]) > 0
