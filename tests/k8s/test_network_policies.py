"""Every connection that the processes need is allowed, and every one that is allowed is needed."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.k8s.manifests import BACKENDS, CONTROL_LABEL, NAMES, Manifest, Workload, combined, of_kind

Edge = tuple[str, str, int, str]
"""From, to, port, protocol."""

PROMETHEUS, DNS, PHOTO_TOOLS, ANYWHERE = "prometheus", "dns", "photo tools", "anywhere"
COLLECTOR = "collector"
PUBLIC = "public addresses"
INSIDE = (
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.20.0.1",
    "192.168.1.1",
    "fc00::1",
    "fe80::1",
)
"""Addresses that clients' webhooks must not reach: pods, nodes, the cloud's metadata."""


@pytest.fixture(
    scope="module",
    params=[
        (),
        ("restores-only",),
        ("jobs-sqlite",),
        ("jobs-postgres",),
        ("jobs-postgres", "restores-only"),
        ("mtls", "https"),
        ("tracing",),
        ("jobs-postgres", "restores-only", "tracing"),
    ],
    ids="+".join,
)
def rendered(request: pytest.FixtureRequest) -> list[Manifest]:
    return combined("network-policies", "monitoring", *request.param)


def names(rendered: list[Manifest]) -> list[str]:
    """The processes that there are."""
    return [name for name in NAMES if f"atelier-{name}" in of_kind(rendered, "Deployment")]


def labels(name: str) -> dict[str, str]:
    return {CONTROL_LABEL: f"atelier-{name}", "app.kubernetes.io/part-of": "atelier"}


def selects(selector: Manifest, name: str) -> bool:
    own = labels(name)
    matches: bool = selector.get("matchLabels", {}).items() <= own.items()
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        matches = matches and own.get(expression["key"]) in expression["values"]
    return matches


def is_public(block: Manifest) -> bool:
    """Whether a block is all addresses but those inside."""
    everything = ipaddress.ip_network(block["cidr"])
    exceptions = [ipaddress.ip_network(cidr) for cidr in block["except"]]
    inside = [address for each in INSIDE if (address := ipaddress.ip_address(each)) in everything]
    return (
        everything.prefixlen == 0
        and all(any(address in network for network in exceptions) for address in inside)
        and all(any(address in network for address in inside) for network in exceptions)
    )


def peers(peer: Manifest) -> list[str]:
    """The processes that an entry of `from` or `to` selects."""
    if "ipBlock" in peer:
        return [PUBLIC if is_public(peer["ipBlock"]) else f"unknown: {peer}"]
    pod = peer["podSelector"]
    namespace = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
    if namespace is None:
        ours = [name for name in NAMES if selects(pod, name)]
        return ours or ([PHOTO_TOOLS] if pod == {"matchLabels": {"atelier-restorer-client": "true"}} else [])
    if (namespace, pod) == ("monitoring", {"matchLabels": {CONTROL_LABEL: "prometheus"}}):
        return [PROMETHEUS]
    if (namespace, pod) == ("monitoring", {"matchLabels": {CONTROL_LABEL: "opentelemetry-collector"}}):
        return [COLLECTOR]
    if (namespace, pod) == ("kube-system", {"matchLabels": {"k8s-app": "kube-dns"}}):
        return [DNS]
    return [f"unknown: {peer}"]


def numbers(rendered: list[Manifest], name: str) -> dict[str, int]:
    return {p["name"]: p["containerPort"] for p in Workload("", name, rendered).container["ports"]}


def allowed(rendered: list[Manifest], direction: str) -> Iterator[Edge]:
    """The edges that the rules of one direction allow to or from our pods."""
    for policy in of_kind(rendered, "NetworkPolicy").values():
        spec = policy["spec"]
        if direction.capitalize() not in spec["policyTypes"]:
            continue  # Kubernetes ignores rules of a direction that is not listed there
        for name in (name for name in NAMES if selects(spec["podSelector"], name)):
            for rule in spec.get(direction, []):
                side = rule.get("from" if direction == "ingress" else "to")
                others = [p for peer in side for p in peers(peer)] if side else [ANYWHERE]
                for other in others:
                    for port in rule["ports"]:
                        number = port["port"]
                        number = numbers(rendered, name)[number] if isinstance(number, str) else number
                        pair = (other, name) if direction == "ingress" else (name, other)
                        yield (*pair, number, port["protocol"])


def calls(rendered: list[Manifest]) -> set[Edge]:
    """What the gateway calls, by its settings."""
    gateway = Workload("", "gateway", rendered)
    edges = set()
    for backend in BACKENDS:
        address = gateway.setting(backend.upper())
        assert address is not None and (address == "none") == (backend not in names(rendered))
        if address == "none":
            continue
        edges.add(("gateway", backend, int(address.rsplit(":", 1)[1]), "TCP"))
    return edges


def jobs(rendered: list[Manifest]) -> set[Edge]:
    """What jobs need, by the gateway's settings: PostgreSQL, a bucket and webhooks."""
    gateway = Workload("", "gateway", rendered)
    edges: set[Edge] = set()
    database = urlsplit(gateway.setting("JOBS_DATABASE") or "")
    if database.scheme == "postgresql":
        assert database.port is not None
        edges.add(("gateway", ANYWHERE, database.port, "TCP"))
    if gateway.setting("WEBHOOK_SECRETS") or (gateway.setting("JOBS_FILES") or "").startswith("s3:"):
        edges.add(("gateway", PUBLIC, 443, "TCP"))
    return edges


def traces(rendered: list[Manifest]) -> set[Edge]:
    """Where spans are delivered, by the standard variables; each process looks up the collector's name."""
    edges: set[Edge] = set()
    for name in names(rendered):
        address = Workload("", name, rendered).environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        if address is not None:
            port = urlsplit(address).port
            assert port is not None
            edges |= {(name, COLLECTOR, port, "TCP"), (name, DNS, 53, "UDP"), (name, DNS, 53, "TCP")}
    return edges


def scrapes(rendered: list[Manifest]) -> set[Edge]:
    """What Prometheus scrapes, by the PodMonitors."""
    edges = set()
    for monitor in of_kind(rendered, "PodMonitor").values():
        for name in (name for name in NAMES if selects(monitor["spec"]["selector"], name)):
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                edges.add((PROMETHEUS, name, numbers(rendered, name)[endpoint["port"]], "TCP"))
    return edges


def test_nothing_is_allowed_without_a_rule(rendered: list[Manifest]) -> None:
    deny = of_kind(rendered, "NetworkPolicy")["atelier-default-deny"]["spec"]
    assert all(selects(deny["podSelector"], name) for name in names(rendered))
    assert deny.keys() == {"podSelector", "policyTypes"} and set(deny["policyTypes"]) == {"Ingress", "Egress"}
    for name in names(rendered):
        assert labels(name).items() <= Workload("", name, rendered).labels.items()


def test_ingress_is_allowed_where_it_is_needed(rendered: list[Manifest]) -> None:
    clients = {(ANYWHERE, "gateway", 7860, "TCP")}
    assert {edge[2] for edge in scrapes(rendered) if edge[1] == "gateway"} == {9100}, "not where clients are"
    photo_tools = {(PHOTO_TOOLS, "restorer", numbers(rendered, "restorer")["grpc"], "TCP")}
    needed = calls(rendered) | scrapes(rendered) | clients | photo_tools
    assert set(allowed(rendered, "ingress")) == needed


def test_egress_is_allowed_where_it_is_needed(rendered: list[Manifest]) -> None:
    lookups = {("gateway", DNS, 53, protocol) for protocol in ("UDP", "TCP")}
    needed = calls(rendered) | lookups | jobs(rendered) | traces(rendered)
    assert set(allowed(rendered, "egress")) == needed, "weights are local: the services call nothing else"
