"""The components for TLS, and what bounds a namespace: they say what the processes read and need."""

from __future__ import annotations

import math
import shutil
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.settings import GatewaySettings
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.settings import ProcessSettings
from tests.k8s.manifests import (
    BACKENDS,
    K8S,
    LOADER,
    NAMES,
    ROOT,
    Manifest,
    Workload,
    combined,
    kustomize,
    of_kind,
    on_top_of,
    overlay,
    workloads,
)

TLS_KEYS = {"tls.crt", "tls.key", "ca.crt"}
"""Of a Secret that cert-manager writes."""

SETTINGS: dict[str, type[ProcessSettings]] = {
    "gateway": GatewaySettings,
    "generator": GeneratorSettings,
    "restorer": RestorerSettings,
}


@pytest.fixture(scope="module")
def rendered() -> list[Manifest]:
    return combined("network-policies", "mtls", "https")


def settings(workload: Workload) -> Any:
    prefix = f"ATELIER_{workload.name.upper()}_"
    values = {k.removeprefix(prefix).lower(): v for k, v in workload.environment.items()}
    return SETTINGS[workload.name].model_validate(values)


def certificate_at(workload: Workload, path: Any) -> Manifest:
    """The Certificate whose Secret is mounted where a setting's file is."""
    place = PurePosixPath(str(path))
    assert place.name in TLS_KEYS
    [mount] = [m for m in workload.container["volumeMounts"] if m["mountPath"] == str(place.parent)]
    assert mount["readOnly"] is True
    assert "subPath" not in mount, "the kubelet does not update those"
    [volume] = [v for v in workload.pod["volumes"] if v["name"] == mount["name"]]
    assert volume["secret"]["defaultMode"] == 0o440, "the group is fsGroup, the process's own"
    certificates = of_kind(workload.manifests, "Certificate").values()
    [found] = [c for c in certificates if c["spec"]["secretName"] == volume["secret"]["secretName"]]
    spec: Manifest = found["spec"]
    return spec


@pytest.mark.parametrize("name", BACKENDS)
def test_a_service_requires_certificates_and_has_the_name_that_the_gateway_dials(
    rendered: list[Manifest], name: str
) -> None:
    service, gateway = Workload("mtls", name, rendered), Workload("mtls", "gateway", rendered)
    read = settings(service)
    certificate = certificate_at(service, read.tls_cert)
    assert certificate == certificate_at(service, read.tls_key) == certificate_at(service, read.tls_ca)
    target = getattr(settings(gateway), name)
    assert (
        target.startswith("dns:///")
        and target.removeprefix("dns:///").split(":")[0] in certificate["dnsNames"]
    )
    assert set(certificate["usages"]) == {"digital signature", "server auth"}
    assert of_kind(rendered, "Service")[f"atelier-{name}"]["spec"]["ports"][0]["appProtocol"] == "https"


def test_the_gateway_presents_a_certificate_of_the_ca_that_the_services_ask_for(
    rendered: list[Manifest],
) -> None:
    gateway = Workload("mtls", "gateway", rendered)
    read = settings(gateway)
    presented = certificate_at(gateway, read.backend_tls_cert)
    assert presented == certificate_at(gateway, read.backend_tls_key)
    assert presented == certificate_at(gateway, read.backend_tls_ca)
    assert set(presented["usages"]) == {"digital signature", "client auth"}, "it cannot pose as a service"
    issuers = {certificate["spec"]["issuerRef"]["name"] for certificate in leaves(rendered)}
    assert len(issuers) == 1 and issuers <= of_kind(rendered, "Issuer").keys()


def leaves(rendered: list[Manifest]) -> list[Manifest]:
    return [c for c in of_kind(rendered, "Certificate").values() if not c["spec"].get("isCA")]


def test_certificates_are_renewed_in_time_and_the_ca_keeps_its_key(rendered: list[Manifest]) -> None:
    for certificate in leaves(rendered):
        spec = certificate["spec"]
        hours = {key: int(spec[key].removesuffix("h")) for key in ("duration", "renewBefore")}
        assert 24 * 7 <= hours["renewBefore"] <= hours["duration"] / 2
        assert spec["privateKey"]["rotationPolicy"] == "Always"
    authorities = of_kind(rendered, "Certificate")
    issuer = of_kind(rendered, "Issuer")[leaves(rendered)[0]["spec"]["issuerRef"]["name"]]
    [authority] = [c["spec"] for c in authorities.values() if c["spec"].get("isCA")]
    assert issuer["spec"]["ca"]["secretName"] == authority["secretName"]
    assert authority["privateKey"]["rotationPolicy"] == "Never", "or old certificates would not verify"


@pytest.mark.parametrize("name", BACKENDS)
def test_the_probes_of_services_are_those_of_the_metrics_port(rendered: list[Manifest], name: str) -> None:
    container = Workload("mtls", name, rendered).container
    plain = Workload("plain", name, combined()).container
    paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for kind, path in paths.items():
        assert container[kind].pop("httpGet") == {"path": path, "port": "metrics"}
        assert "grpc" not in container[kind]
        del plain[kind]["grpc"]
        assert container[kind] == plain[kind], "times and thresholds stay"


def test_the_gateways_own_server_has_a_certificate_and_probes_speak_tls(rendered: list[Manifest]) -> None:
    gateway = Workload("mtls", "gateway", rendered)
    read = settings(gateway)
    certificate = certificate_at(gateway, read.tls_cert)
    assert certificate == certificate_at(gateway, read.tls_key) and read.tls_ca is None
    assert "server auth" in certificate["usages"] and "atelier-gateway" in certificate["dnsNames"]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = gateway.container[kind]["httpGet"]
        assert probe["scheme"] == ("HTTPS" if probe["port"] == "http" else "HTTP")
    assert of_kind(rendered, "Service")["atelier-gateway"]["spec"]["ports"][0]["appProtocol"] == "https"


def test_an_ingress_lets_through_what_the_gateway_takes() -> None:
    rendered = combined("ingress")
    gateway = Workload("ingress", "gateway", rendered)
    read = settings(gateway)
    [ingress] = of_kind(rendered, "Ingress").values()
    annotations = ingress["metadata"]["annotations"]
    size = int(annotations["nginx.org/client-max-body-size"].removesuffix("m")) * 2**20
    limits = BodyLimits.of(read)
    assert max(limits.json, limits.form) <= size < 1.1 * max(limits.json, limits.form)
    for direction in ("read", "send"):
        timeout_s = int(annotations[f"nginx.org/proxy-{direction}-timeout"].removesuffix("s"))
        assert timeout_s > read.deadline_seconds
    [rule], [tls] = ingress["spec"]["rules"], ingress["spec"]["tls"]
    public = urlsplit(read.public_url)
    assert public.scheme == "https" and tls["hosts"] == [rule["host"]] == [public.hostname]
    [path] = rule["http"]["paths"]
    backend = path["backend"]["service"]
    [port] = of_kind(rendered, "Service")[backend["name"]]["spec"]["ports"]
    assert backend["port"]["name"] == port["name"]


def test_an_ingress_speaks_tls_to_gateways_that_serve_https() -> None:
    [plain] = of_kind(combined("mtls", "ingress"), "Ingress").values()
    [secure] = of_kind(combined("mtls", "ingress", "https"), "Ingress").values()
    backend = secure["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"]
    assert secure["metadata"]["annotations"].pop("nginx.org/ssl-services") == backend
    assert secure == plain


def test_without_a_generator_it_has_no_certificate() -> None:
    rendered = on_top_of("autoscale", "mtls", "https", "restores-only")
    certificates = of_kind(rendered, "Certificate")
    assert {"atelier-gateway", "atelier-restorer", "atelier-gateway-https"} <= certificates.keys()
    assert "atelier-generator" not in certificates


UNITS: dict[str, Fraction | int] = {"": 1, "m": Fraction(1, 1000), "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text: Any) -> Fraction:
    """A Kubernetes quantity as a number."""
    number = str(text).rstrip("KMGim")
    return Fraction(number) * UNITS[str(text)[len(number) :]]


def needed(name: str) -> dict[str, Fraction]:
    """What an overlay's pods take at their largest number, each Deployment in the middle of an upgrade."""
    total: dict[str, Fraction] = {"pods": Fraction(0)}
    for workload in workloads(name):
        rolling = workload.deployment["spec"]["strategy"].get("rollingUpdate") or {}
        count = workload.most_replicas + rolling.get("maxSurge", 0)
        total["pods"] += count
        for kind, resources in workload.container["resources"].items():
            for resource, amount in resources.items():
                if resource != "nvidia.com/gpu" or kind == "requests":
                    key = f"{kind}.{resource}"
                    total[key] = total.get(key, Fraction(0)) + count * quantity(amount)
    return total


def archive_job() -> dict[str, Fraction]:
    """What the pods of the example take."""
    files = (ROOT / "examples/kubernetes_indexed_job").glob("*.yaml")
    [job] = [m for file in files for m in yaml.safe_load_all(file.read_text()) if m["kind"] == "Job"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    count = job["spec"]["parallelism"]
    return {"pods": Fraction(count)} | {
        f"{kind}.{resource}": count * quantity(amount)
        for kind, resources in container["resources"].items()
        for resource, amount in resources.items()
    }


@pytest.mark.parametrize("name", ["gpu", "autoscale", "restore"])
def test_a_namespace_is_bounded_by_one_line_and_not_without_it(name: str, tmp_path: Path) -> None:
    assert not of_kind(overlay(name), "ResourceQuota") and not of_kind(overlay(name), "LimitRange")
    shutil.copytree(K8S, tmp_path / "k8s")
    file = tmp_path / "k8s/overlays/gpu/kustomization.yaml"
    line = "  # - ../../components/quota"
    text = file.read_text()
    assert text.count(line) == 1
    file.write_text(text.replace(line, line.replace("# ", "")))
    rendered = list(yaml.load_all(kustomize(tmp_path / "k8s/overlays" / name), LOADER))
    for kind in ("ResourceQuota", "LimitRange"):
        [bound] = of_kind(rendered, kind).values()
        assert bound["metadata"]["namespace"] == "atelier"


@pytest.mark.parametrize("name", ["gpu", "autoscale", "restore"])
def test_the_quota_has_room_for_the_largest_number_of_pods_and_little_more(name: str) -> None:
    [quota] = of_kind(on_top_of(name, "quota"), "ResourceQuota").values()
    hard = {key: quantity(amount) for key, amount in quota["spec"]["hard"].items()}
    extra = archive_job()
    for key, amount in needed(name).items():
        assert amount + extra.get(key, 0) <= hard[key], (key, math.ceil(amount))
        if name == "autoscale":
            assert hard[key] <= 1.5 * float(amount + extra.get(key, 0)), f"{key} bounds nothing"
    claims = len(of_kind(overlay(name), "PersistentVolumeClaim"))
    assert claims <= hard["persistentvolumeclaims"]


def test_a_container_that_asks_for_nothing_gets_a_little() -> None:
    [limits] = of_kind(combined("quota"), "LimitRange").values()
    [container] = limits["spec"]["limits"]
    assert container["type"] == "Container"
    for resource in ("cpu", "memory"):
        assert quantity(container["defaultRequest"][resource]) <= quantity(container["default"][resource])


@pytest.mark.parametrize("workload", workloads(), ids=str)
def test_reflection_is_off_where_it_is_production(workload: Workload) -> None:
    if workload.name in BACKENDS:
        assert settings(workload).reflection == (workload.overlay == "cpu-demo")


@pytest.mark.parametrize("name", NAMES)
def test_everything_else_of_a_pod_is_as_without_tls(rendered: list[Manifest], name: str) -> None:
    with_tls, without = (
        Workload("", name, each).deployment for each in (rendered, combined("network-policies"))
    )
    for deployment in (with_tls, without):
        pod = deployment["spec"]["template"]["spec"]
        pod["volumes"] = [v for v in pod["volumes"] if "secret" not in v]
        [container] = pod["containers"]
        container["volumeMounts"] = [
            m for m in container["volumeMounts"] if not m["mountPath"].startswith("/tls")
        ]
        container["env"] = [e for e in container.get("env", []) if "TLS_" not in e["name"]]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            del container[kind]
    assert with_tls == without
