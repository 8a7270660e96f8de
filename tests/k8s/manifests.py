"""What `kubectl kustomize` renders from k8s/, as Python objects."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
PAGE = ROOT / "docs/kubernetes.md"
NAMES = ("gateway", "generator", "restorer")
BACKENDS = ("generator", "restorer")
"""The services that the gateway calls."""

OVERLAYS = ("cpu-demo", "gpu", "autoscale", "restore")
COMPONENTS = ("compiled", "images", "keda", "monitoring", "network-policies", "weights-volume")
JOBS_COMPONENTS = ("jobs-postgres", "jobs-sqlite")
"""One at most, after the others."""

TLS_COMPONENTS = ("mtls", "https", "ingress", "quota")
"""After the others, in this order."""

COMBINATIONS = [
    combination
    for count in range(len(COMPONENTS) + 1)
    for combination in itertools.combinations(COMPONENTS, count)
]
COMBINATIONS += [(*c, "scale-to-zero") for c in COMBINATIONS if "keda" in c]
COMBINATIONS += [
    (*c, jobs)
    for c in COMBINATIONS
    for jobs in JOBS_COMPONENTS
    if not {"compiled", "images", "weights-volume"} & set(c)  # which have nothing to do with the gateway
]
COMBINATIONS += [
    ("mtls",),
    ("mtls", "https"),
    ("ingress",),
    ("quota",),
    ("network-policies", "monitoring", *TLS_COMPONENTS, "jobs-postgres"),
    (*COMPONENTS, *TLS_COMPONENTS),
    (*COMPONENTS, "scale-to-zero", *TLS_COMPONENTS, "jobs-postgres"),
]
"""What is rendered on the three bases, in this order."""

SECRETS = {
    "atelier-jobs": {
        "database": "postgresql://atelier:secret@db.internal:5432/jobs?sslmode=verify-full&sslrootcert=system",
        "webhook-secrets": "whsec_" + "QUJD" * 8,
    },
    "atelier-api-keys": {"keys.toml": ""},
    "atelier-jobs-bucket": {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
}
"""What a platform engineer creates, with the names and keys that the components document."""

CONTROL_LABEL = "app.kubernetes.io/name"

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where PyYAML has it

Manifest = dict[str, Any]


def program(name: str) -> str:
    """A program that a package of the development group brings into the virtual environment."""
    return str(Path(sys.executable).parent / name)


def kustomize(folder: Path) -> str:
    done = subprocess.run(
        [program("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"kustomize warns: {done.stderr}"
    return done.stdout


@cache
def _rendered(folder: Path) -> str:
    return kustomize(folder)


def overlay(name: str) -> list[Manifest]:
    """A fresh copy of everything in an overlay."""
    return list(yaml.load_all(_rendered(K8S / "overlays" / name), Loader=LOADER))


def combined(
    *components: str, bases: tuple[str, ...] = NAMES, namespace: str = "elsewhere"
) -> list[Manifest]:
    """A fresh copy of everything in an overlay of these bases and components."""
    folders = tuple(f"base/{base}" for base in bases)
    return list(yaml.load_all(_combined(components, folders, namespace), Loader=LOADER))


def on_top_of(name: str, *components: str) -> list[Manifest]:
    """A fresh copy of everything in an overlay of another overlay and these components."""
    return list(yaml.load_all(_combined(components, (f"overlays/{name}",), "elsewhere"), Loader=LOADER))


@cache
def _combined(components: tuple[str, ...], resources: tuple[str, ...], namespace: str) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": namespace,
            "resources": [os.path.relpath(K8S / resource, folder) for resource in resources],
            "components": [os.path.relpath(K8S / "components" / name, folder) for name in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomize(folder)


def of_kind(manifests: Sequence[Manifest], kind: str) -> dict[str, Manifest]:
    """The manifests of a kind by name."""
    return {m["metadata"]["name"]: m for m in manifests if m["kind"] == kind}


@dataclass(frozen=True)
class Workload:
    """One Deployment of an overlay, with what belongs to it."""

    overlay: str
    name: str
    manifests: list[Manifest]

    def __str__(self) -> str:
        return f"{self.overlay}-{self.name}"

    @property
    def deployment(self) -> Manifest:
        return of_kind(self.manifests, "Deployment")[f"atelier-{self.name}"]

    @property
    def pod(self) -> Manifest:
        spec: Manifest = self.deployment["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Manifest:
        [container] = self.pod["containers"]
        found: Manifest = container
        return found

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.deployment["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def environment(self) -> dict[str, str]:
        """All variables that the manifests, and the Secrets that they name, give the process."""
        config_maps = of_kind(self.manifests, "ConfigMap")
        variables: dict[str, str] = {}
        for source in self.container.get("envFrom", []):
            if "secretRef" in source:
                variables |= SECRETS[source["secretRef"]["name"]]
            else:
                variables |= config_maps[source["configMapRef"]["name"]]["data"]
        for entry in self.container.get("env", []):
            if "value" in entry:
                variables[entry["name"]] = entry["value"]
            else:
                reference = entry["valueFrom"]["secretKeyRef"]
                variables[entry["name"]] = SECRETS[reference["name"]][reference["key"]]
        return variables

    @property
    def most_replicas(self) -> int:
        """How many pods may serve at once, not counting those that replace others."""
        spec = self.deployment["spec"]
        scaled = of_kind(self.manifests, "ScaledObject").get(f"atelier-{self.name}")
        found: int = scaled["spec"]["maxReplicaCount"] if scaled else spec.get("replicas", 1)
        return found

    def setting(self, name: str) -> str | None:
        return self.environment.get(f"ATELIER_{self.name.upper()}_{name}")


def workloads(*overlays: str) -> list[Workload]:
    """Every Deployment of these overlays; of all, if none is named."""
    return [
        Workload(name, deployment.removeprefix("atelier-"), overlay(name))
        for name in overlays or OVERLAYS
        for deployment in of_kind(overlay(name), "Deployment")
    ]
