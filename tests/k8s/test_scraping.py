"""The operator scrapes every pod often enough, with the labels that the queries select."""

from __future__ import annotations

import re

import pytest

from tests.k8s import queries
from tests.k8s.manifests import Manifest, Workload, combined, of_kind, overlay, workloads

PROMETHEUS = "http://prometheus-operated.{}.svc:9090"
"""The Service that the operator makes for every Prometheus of its namespace."""

ALL = pytest.mark.parametrize("workload", workloads("autoscale"), ids=str)


def monitor(workload: Workload) -> Manifest:
    """The one PodMonitor that selects a Deployment's pods."""
    own = workload.labels.items()
    found: list[Manifest] = [
        monitor["spec"]
        for monitor in of_kind(workload.manifests, "PodMonitor").values()
        if monitor["spec"]["selector"]["matchLabels"].items() <= own
    ]
    assert len(found) == 1
    return found[0]


@ALL
def test_a_pod_is_scraped_where_it_exports_its_metrics(workload: Workload) -> None:
    [endpoint] = monitor(workload)["podMetricsEndpoints"]
    ports = {port["name"] for port in workload.container["ports"]}
    assert endpoint["port"] == ("metrics" if "metrics" in ports else "http")
    assert endpoint["path"] == "/metrics"


@ALL
def test_the_queries_select_the_job_that_the_operator_sets(workload: Workload) -> None:
    job = workload.labels[monitor(workload)["jobLabel"]]
    assert job == f"atelier-{workload.name}"
    assert f'job="{job}"' in str(queries.alerts())


@ALL
def test_the_shortest_window_of_a_query_holds_several_scrapes(workload: Workload) -> None:
    [endpoint] = monitor(workload)["podMetricsEndpoints"]
    interval_s = int(endpoint["interval"].removesuffix("s"))
    used = [*queries.alerts().values(), *queries.recorded().values()]
    used += [query for query, _ in queries.autoscalers().values()]
    windows = re.findall(r"\[(\d+)m\]", str(used))
    assert 60 * min(map(int, windows)) >= 4 * interval_s


def test_the_autoscalers_query_the_prometheus_that_may_scrape() -> None:
    """A trigger's metadata is not in any schema."""
    policies = of_kind(overlay("autoscale"), "NetworkPolicy")
    [rule] = policies["atelier-metrics"]["spec"]["ingress"]
    [peer] = rule["from"]
    namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    rendered = [*overlay("autoscale"), *combined("keda", "scale-to-zero")]
    triggers = [t for m in rendered if m["kind"] == "ScaledObject" for t in m["spec"]["triggers"]]
    assert len(triggers) == 3 + 3 + 5 + 3
    for trigger in triggers:
        assert trigger["type"] == "prometheus"
        metadata = trigger["metadata"]
        assert metadata.keys() == {"serverAddress", "query", "threshold", "ignoreNullValues"}
        selected = {matcher.label: matcher.value for matcher in queries.matchers_in(metadata["query"])}
        assert selected["namespace"] == queries.NAMESPACE, "Prometheus may scrape other installations"
        assert selected["job"].startswith("atelier-")
        assert metadata["serverAddress"] == PROMETHEUS.format(namespace)
        assert metadata["ignoreNullValues"] in ("true", "false") and float(metadata["threshold"]) > 0
