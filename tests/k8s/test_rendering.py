"""Every overlay and every combination of components renders, to what Kubernetes and the operators know."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.k8s import manifests
from tests.k8s.manifests import COMPONENTS, K8S, NAMES, OVERLAYS, Manifest, combined, of_kind, overlay

VERSIONS = ("1.33", "1.35", "1.37")
OPERATORS = ("keda.sh/", "monitoring.coreos.com/")
SCHEMAS = Path(__file__).parent / "schemas"


def problems(manifest: Manifest, version: str) -> tuple[str, ...]:
    """What is wrong with an object of Kubernetes itself; a key that does not exist is."""
    return _problems(json.dumps(manifest), version)


@cache  # most objects stand in many combinations, and each time a schema is read anew
def _problems(manifest: str, version: str) -> tuple[str, ...]:
    try:
        kubernetes_validate.validate(json.loads(manifest), version, strict=True)
    except (
        kubernetes_validate.ValidationError,
        kubernetes_validate.SchemaNotFoundError,
        kubernetes_validate.InvalidSchemaError,
    ) as error:
        return (str(error),)
    return ()


def is_operators(manifest: Manifest) -> bool:
    return manifest["apiVersion"].startswith(OPERATORS)


def wrong(rendered: list[Manifest], *versions: str) -> list[tuple[str, str, str, str]]:
    """Version, kind, name and problem of each object of Kubernetes itself that is wrong."""
    own = [(manifest["kind"], manifest) for manifest in rendered if not is_operators(manifest)]
    return [
        (version, kind, manifest["metadata"]["name"], problem)
        for version in versions
        for kind, manifest in own
        for problem in problems(manifest, version)
    ]


Validator = Callable[[list[Manifest]], list[list[str]]]


@pytest.fixture(scope="session")
def operators_problems(tmp_path_factory: pytest.TempPathFactory) -> Validator:
    """A function that says what is wrong with objects of KEDA and of the Prometheus operator."""
    folder = tmp_path_factory.mktemp("schemas")
    for path in SCHEMAS.iterdir():
        shutil.copy(path, folder)
    bin_first = f"{Path(manifests.program('node')).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": bin_first}
    command = [manifests.program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"the npm packages of {SCHEMAS.name}/package.json cannot be had: {done.stderr[-300:]}")

    def validate(objects: list[Manifest]) -> list[list[str]]:
        done = subprocess.run(
            [manifests.program("node"), "validate.mjs"],
            cwd=folder,
            input=json.dumps(objects),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        answers: list[list[str]] = json.loads(done.stdout)
        assert len(answers) == len(objects)
        return answers

    return validate


def check_references(rendered: list[Manifest]) -> None:
    """Nothing stands there twice, and every ConfigMap and ServiceAccount that a pod names is there."""
    keys = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in rendered]
    assert len(keys) == len(set(keys))
    for deployment in of_kind(rendered, "Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] in of_kind(rendered, "ServiceAccount")
        for source in pod["containers"][0]["envFrom"]:
            assert source["configMapRef"]["name"] in of_kind(rendered, "ConfigMap")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_are_valid(name: str, version: str) -> None:
    rendered = overlay(name)
    check_references(rendered)
    assert rendered and not wrong(rendered, version)


@pytest.mark.parametrize("base", NAMES)
def test_each_base_applies_alone(base: str, tmp_path: Path) -> None:
    rendered = combined(tmp_path, [], [base])
    check_references(rendered)
    kinds = sorted(m["kind"] for m in rendered)
    assert kinds == ["ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"]
    assert not wrong(rendered, *VERSIONS)


COMBINATIONS = [
    combination
    for count in range(len(COMPONENTS) + 1)
    for combination in itertools.combinations(COMPONENTS, count)
]
COMBINATIONS += [(*c, "scale-to-zero") for c in COMBINATIONS if "keda" in c]


@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_every_combination_of_components_is_valid(components: tuple[str, ...], tmp_path: Path) -> None:
    rendered = combined(tmp_path, components)
    check_references(rendered)
    assert {m["metadata"]["namespace"] for m in rendered} == {"elsewhere"}
    assert not wrong(rendered, *VERSIONS)
    kinds = {m["kind"] for m in rendered}
    assert ("ScaledObject" in kinds) == ("keda" in components)
    assert ("PodMonitor" in kinds) == ("PrometheusRule" in kinds) == ("monitoring" in components)
    assert ("NetworkPolicy" in kinds) == ("network-policies" in components)
    assert ("PersistentVolumeClaim" in kinds) == ("weights-volume" in components)


def test_the_operators_kinds_are_valid(operators_problems: Validator, tmp_path: Path) -> None:
    to_zero = combined(tmp_path, ["keda", "scale-to-zero", "monitoring"])
    objects = [m for m in overlay("autoscale") + to_zero if is_operators(m)]
    assert {m["kind"] for m in objects} == {"ScaledObject", "PodMonitor", "PrometheusRule"}
    answers = zip(objects, operators_problems(objects), strict=True)
    # a list: an autoscaler and the PodMonitor of the same process have one name
    assert not [(m["kind"], m["metadata"]["name"], found) for m, found in answers if found]


TYPOS = {
    "ConfigMap": ("data", "dato"),
    "Deployment": ("livenessProbe", "livenesProbe"),
    "Namespace": ("metadata", "metdata"),
    "NetworkPolicy": ("podSelector", "podSelektor"),
    "PersistentVolumeClaim": ("accessModes", "accessMode"),
    "PodDisruptionBudget": ("maxUnavailable", "maxUnavailabel"),
    "PodMonitor": ("interval", "intervall"),
    "PrometheusRule": ("for", "fro"),
    "ScaledObject": ("fallback", "fallbak"),
    "Service": ("clusterIP", "clusterIp"),
    "ServiceAccount": ("automountServiceAccountToken", "automountServiceAccountTokens"),
}


def misspelt(manifest: Manifest) -> Manifest:
    right, wrong = TYPOS[manifest["kind"]]
    text = json.dumps(manifest)
    assert f'"{right}":' in text, manifest["kind"]
    copy: Manifest = json.loads(text.replace(f'"{right}":', f'"{wrong}":', 1))
    return copy


def test_a_typo_in_any_kind_is_found(operators_problems: Validator) -> None:
    by_kind = {m["kind"]: m for m in overlay("autoscale") if m["metadata"]["name"] != "atelier-gateway"}
    assert by_kind.keys() == TYPOS.keys(), "a kind has no typo here yet"
    for kind, manifest in by_kind.items():
        typo = misspelt(manifest)
        answers = operators_problems([typo]) if is_operators(typo) else [problems(typo, v) for v in VERSIONS]
        assert all(answers), f"nobody minds a {TYPOS[kind][1]} in a {kind}"


def test_the_registry_is_set_in_one_place() -> None:
    named = [p for p in K8S.rglob("*.yaml") if "registry.example" in p.read_text(encoding="utf-8")]
    assert named == [K8S / "components/images/kustomization.yaml"]
    for name in OVERLAYS:
        for deployment in of_kind(overlay(name), "Deployment").values():
            image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
            assert image.startswith("registry.example/atelier/"), "every overlay takes it from there"


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
