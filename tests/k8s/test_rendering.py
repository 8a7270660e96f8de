"""Every overlay and combination of components renders to what Kubernetes and the operators accept."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.k8s import manifests
from tests.k8s.manifests import (
    COMBINATIONS,
    COMPONENTS,
    K8S,
    NAMES,
    OVERLAYS,
    SECRETS,
    TLS_COMPONENTS,
    Manifest,
    Workload,
    combined,
    of_kind,
    on_top_of,
    overlay,
)

VERSIONS = ("1.33", "1.35", "1.37")
OPERATORS = ("cert-manager.io/", "keda.sh/", "monitoring.coreos.com/")
SCHEMAS = Path(__file__).parent / "schemas"


def problems(manifest: Manifest, version: str) -> tuple[str, ...]:
    """What is wrong with a manifest; a key that does not exist is."""
    return _problems(json.dumps(manifest), version)


@cache  # most objects are in many combinations, and kubernetes_validate reads a schema on each call
def _problems(text: str, version: str) -> tuple[str, ...]:
    manifest: Manifest = json.loads(text)
    if manifest["apiVersion"].startswith(OPERATORS):
        found = _operators_schema(manifest["kind"]).iter_errors(manifest)
        return tuple(f"{error.json_path}: {error.message}" for error in found)
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except (
        kubernetes_validate.ValidationError,
        kubernetes_validate.SchemaNotFoundError,
        kubernetes_validate.InvalidSchemaError,
    ) as error:
        return (str(error),)
    return ()


@cache
def _operators_schema(kind: str) -> jsonschema.Draft202012Validator:
    """The schema of one of the operators' kinds, the same for every version of Kubernetes."""
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{kind}.json").read_text(encoding="utf-8")))


def wrong(rendered: list[Manifest], *versions: str) -> list[tuple[str, str, str, str]]:
    """Version, kind, name and problem of each object that is wrong."""
    return [
        (version, manifest["kind"], manifest["metadata"]["name"], problem)
        for version in versions
        for manifest in rendered
        for problem in problems(manifest, version)
    ]


def check_references(rendered: list[Manifest]) -> None:
    """Nothing is defined twice, and every ConfigMap and ServiceAccount that a pod names exists."""
    keys = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in rendered]
    assert len(keys) == len(set(keys))
    for deployment in of_kind(rendered, "Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] in of_kind(rendered, "ServiceAccount")
        for source in pod["containers"][0]["envFrom"]:
            if "secretRef" in source:
                assert source["secretRef"]["name"] in SECRETS
            else:
                assert source["configMapRef"]["name"] in of_kind(rendered, "ConfigMap")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_are_valid(name: str, version: str) -> None:
    rendered = overlay(name)
    check_references(rendered)
    assert rendered and not wrong(rendered, version)


@pytest.mark.parametrize("base", NAMES)
def test_each_base_applies_alone(base: str) -> None:
    rendered = combined(bases=(base,))
    check_references(rendered)
    kinds = sorted(m["kind"] for m in rendered)
    assert kinds == ["ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"]
    assert not wrong(rendered, *VERSIONS)


@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_every_combination_of_components_is_valid(components: tuple[str, ...]) -> None:
    rendered = combined(*components)
    check_references(rendered)
    assert {m["metadata"]["namespace"] for m in rendered} == {"elsewhere"}
    assert not wrong(rendered, *VERSIONS)
    kinds = {m["kind"] for m in rendered}
    assert ("ScaledObject" in kinds) == ("keda" in components)
    assert ("PodMonitor" in kinds) == ("PrometheusRule" in kinds) == ("monitoring" in components)
    assert ("NetworkPolicy" in kinds) == ("network-policies" in components)
    assert ("Issuer" in kinds) == ("mtls" in components) and ("Ingress" in kinds) == ("ingress" in components)
    assert ("ResourceQuota" in kinds) == ("LimitRange" in kinds) == ("quota" in components)
    claims = of_kind(rendered, "PersistentVolumeClaim").keys()
    volumes = {
        "atelier-weights": "weights-volume",
        "atelier-compiled": "compiled",
        "atelier-jobs": "jobs-sqlite",
    }
    assert claims == {claim for claim, component in volumes.items() if component in components}


@pytest.mark.parametrize("name", OVERLAYS)
def test_api_keys_are_a_file_that_the_gateway_reads(name: str) -> None:
    rendered = on_top_of(name, "api-keys")
    assert not wrong(rendered, *VERSIONS)
    gateway = Workload(name, "gateway", rendered)
    settings = gateway.environment
    [volume] = [v for v in gateway.pod["volumes"] if v["name"] == "api-keys"]
    [mount] = [m for m in gateway.container["volumeMounts"] if m["name"] == "api-keys"]
    [key] = SECRETS[volume["secret"]["secretName"]]
    assert settings["ATELIER_GATEWAY_API_KEYS"] == f"{mount['mountPath']}/{key}" and mount["readOnly"]
    assert settings["ATELIER_GATEWAY_ANONYMOUS"] == "refuse"


RESTORER_ALONE = {
    "restore": lambda: overlay("restore"),
    "autoscale": lambda: on_top_of("autoscale", "restores-only"),
    "scaled to zero": lambda: on_top_of("autoscale", "scale-to-zero", "restores-only"),
    "the bases": lambda: combined("restores-only"),
    "every component": lambda: combined(*COMPONENTS, "scale-to-zero", "restores-only"),
    "without the generator's base": lambda: combined(
        *COMPONENTS, "restores-only", bases=("gateway", "restorer")
    ),
    "with TLS": lambda: combined(*COMPONENTS, *TLS_COMPONENTS, "restores-only"),
    "with jobs": lambda: combined(*COMPONENTS, "jobs-postgres", "restores-only"),
}


@pytest.mark.parametrize("name", RESTORER_ALONE)
def test_of_a_restorer_alone_nothing_is_the_generators(name: str) -> None:
    rendered = RESTORER_ALONE[name]()
    check_references(rendered)
    assert not wrong(rendered, *VERSIONS)
    assert of_kind(rendered, "Deployment").keys() == {"atelier-gateway", "atelier-restorer"}
    gateway = Workload(name, "gateway", rendered)
    assert gateway.setting("GENERATOR") == "none" and gateway.labels["atelier-restores-only"] == "true"
    for manifest in rendered:
        assert not manifest["metadata"]["name"].startswith("atelier-generator")
        if manifest["kind"] in ("PrometheusRule", "ConfigMap"):
            continue  # alerts and the dashboard are those of every installation, see below
        assert "atelier-generator" not in json.dumps(manifest), manifest["kind"]
    rules = [r for m in rendered if m["kind"] == "PrometheusRule" for r in m["spec"]["groups"][0]["rules"]]
    assert not [rule["alert"] for rule in rules if 'job="atelier-generator", method=' in rule["expr"]]
    monitors = of_kind(rendered, "PodMonitor").values()
    assert all(
        "atelier-restores-only" in m["spec"]["podTargetLabels"] for m in monitors if "gateway" in str(m)
    )
    assert len(monitors) in (0, 2)


def test_a_restorer_alone_has_the_other_alerts_and_everything_else_of_the_restorer() -> None:
    whole, alone = overlay("autoscale"), on_top_of("autoscale", "restores-only")
    alerts = [
        {rule["alert"] for rule in of_kind(m, "PrometheusRule")["atelier"]["spec"]["groups"][0]["rules"]}
        for m in (whole, alone)
    ]
    assert alerts[0] - alerts[1] == {"AtelierRestorerFails", "AtelierRestorerFull"} and alerts[1]
    for manifest in whole:
        name = manifest["metadata"]["name"]
        if name.startswith("atelier-restorer"):
            manifest["metadata"]["namespace"] = "elsewhere"  # the only difference
            assert manifest in alone, (manifest["kind"], name)


TYPOS = {
    "Certificate": ("dnsNames", "dnsName"),
    "ConfigMap": ("data", "dato"),
    "Deployment": ("livenessProbe", "livenesProbe"),
    "Ingress": ("ingressClassName", "ingressClas"),
    "Issuer": ("selfSigned", "selfsigned"),
    "LimitRange": ("defaultRequest", "defaultRequests"),
    "Namespace": ("metadata", "metdata"),
    "NetworkPolicy": ("podSelector", "podSelektor"),
    "PersistentVolumeClaim": ("accessModes", "accessMode"),
    "PodDisruptionBudget": ("maxUnavailable", "maxUnavailabel"),
    "PodMonitor": ("interval", "intervall"),
    "PrometheusRule": ("expr", "exrp"),
    "ResourceQuota": ("hard", "hart"),
    "ScaledObject": ("fallback", "fallbak"),
    "Service": ("clusterIP", "clusterIp"),
    "ServiceAccount": ("automountServiceAccountToken", "automountServiceAccountTokens"),
}


def misspelled(manifest: Manifest) -> Manifest:
    right, wrong = TYPOS[manifest["kind"]]
    text = json.dumps(manifest)
    assert f'"{right}":' in text, manifest["kind"]
    copy: Manifest = json.loads(text.replace(f'"{right}":', f'"{wrong}":', 1))
    return copy


def test_a_typo_in_any_kind_is_found() -> None:
    rendered = [*combined("mtls"), *combined("ingress", "quota"), *overlay("autoscale")]
    by_kind = {
        m["kind"]: m for m in rendered if m["metadata"]["name"] != "atelier-gateway" or m["kind"] == "Ingress"
    }
    assert by_kind.keys() == TYPOS.keys(), "a kind has no typo here yet"
    for kind, manifest in by_kind.items():
        typo = misspelled(manifest)
        found = [problems(typo, version) for version in VERSIONS]
        assert all(found), f"a {TYPOS[kind][1]} in a {kind} is not noticed"


def test_the_registry_is_set_in_one_place() -> None:
    named = [p for p in K8S.rglob("*.yaml") if "registry.example" in p.read_text(encoding="utf-8")]
    assert named == [K8S / "components/images/kustomization.yaml"]
    for name in OVERLAYS:
        for deployment in of_kind(overlay(name), "Deployment").values():
            image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
            assert image.startswith("registry.example/atelier/"), "every overlay uses it"


def test_another_namespace_is_set_in_one_place(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    file = tmp_path / "k8s/overlays/autoscale/kustomization.yaml"
    file.write_text(file.read_text().replace("\nnamespace: atelier\n", "\nnamespace: studio\n"))
    rendered = list(yaml.load_all(manifests.kustomize(file.parent), Loader=manifests.LOADER))
    assert of_kind(rendered, "Namespace").keys() == {"studio"}
    assert {m["metadata"].get("namespace", "studio") for m in rendered} == {"studio"}
    for scaled in of_kind(rendered, "ScaledObject").values():
        for trigger in scaled["spec"]["triggers"]:
            assert 'namespace="studio"' in trigger["metadata"]["query"]
