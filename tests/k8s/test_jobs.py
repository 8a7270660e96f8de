"""Jobs in every rendering: several gateways never share SQLite, and what they need is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from atelier_gateway.settings import GatewaySettings
from tests.k8s import manifests
from tests.k8s.dockerfile import read
from tests.k8s.manifests import (
    COMBINATIONS,
    JOBS_COMPONENTS,
    K8S,
    OVERLAYS,
    SECRETS,
    Manifest,
    Workload,
    combined,
    of_kind,
    on_top_of,
    overlay,
)

PREFIX = "ATELIER_GATEWAY_"
RENDERED: dict[str, Callable[[], list[Manifest]]] = {
    **{name: partial(overlay, name) for name in OVERLAYS},
    **{"+".join(("bases", *c)): partial(combined, *c) for c in COMBINATIONS},
    **{
        f"{name}+{jobs}": partial(on_top_of, name, jobs)
        for name in OVERLAYS
        for jobs in JOBS_COMPONENTS
        if name != "cpu-demo"
    },
    **{
        f"autoscale+scale-to-zero+{jobs}+restores-only": partial(
            on_top_of, "autoscale", "scale-to-zero", jobs, "restores-only"
        )
        for jobs in JOBS_COMPONENTS
    },
}


def settings(gateway: Workload) -> GatewaySettings:
    """The settings as the gateway will read them. Raises `ValidationError` where it would not start."""
    variables = {k.removeprefix(PREFIX).lower(): v for k, v in gateway.environment.items() if PREFIX in k}
    return GatewaySettings.model_validate(variables)


@pytest.mark.parametrize("name", RENDERED)
def test_several_gateways_never_share_sqlite(name: str) -> None:
    gateway = Workload(name, "gateway", RENDERED[name]())
    read = settings(gateway)
    assert read.replicas == gateway.most_replicas, "what the gateway checks at its start is true"
    volumes = {volume["name"]: volume for volume in gateway.pod["volumes"]}
    if not read.jobs_database.startswith("sqlite:"):
        assert "jobs" not in volumes and "rollingUpdate" in gateway.deployment["spec"]["strategy"]
        return
    assert gateway.most_replicas == 1
    assert "atelier-gateway" not in of_kind(gateway.manifests, "ScaledObject"), "nothing adds another"
    assert gateway.deployment["spec"]["replicas"] == 1, "and nothing has removed the figure"
    assert gateway.deployment["spec"]["strategy"] == {"type": "Recreate"}, "nor beside it in an upgrade"
    claim = volumes["jobs"]["persistentVolumeClaim"]["claimName"]
    spec = of_kind(gateway.manifests, "PersistentVolumeClaim")[claim]["spec"]
    assert spec["accessModes"] == ["ReadWriteOnce"]


@pytest.mark.parametrize("name", [name for name in RENDERED if "jobs-" in name or name == "cpu-demo"])
def test_where_there_are_jobs_rows_and_bytes_are_kept_together(name: str) -> None:
    gateway = Workload(name, "gateway", RENDERED[name]())
    read = settings(gateway)
    database, files = read.jobs_database.partition(":")[0], read.jobs_files.partition(":")[0]
    assert (database, files) in {("sqlite", "file"), ("postgresql", "s3")}
    assert read.webhook_secrets and not read.webhook_private_addresses
    if database == "postgresql":
        assert gateway.environment.items() >= SECRETS["atelier-jobs-bucket"].items()
        return
    mounts = {mount["name"]: mount["mountPath"] for mount in gateway.container["volumeMounts"]}
    for path in (read.jobs_database.removeprefix("sqlite:///"), read.jobs_files.removeprefix("file:")):
        assert Path(path).is_relative_to(mounts["jobs"])


def test_components_in_the_wrong_order_are_refused_at_the_gateways_start() -> None:
    gateway = Workload("", "gateway", combined("jobs-sqlite", "keda"))
    with pytest.raises(ValidationError, match="gateways cannot share SQLite: ATELIER_GATEWAY_JOBS_DATABASE"):
        settings(gateway)


@pytest.mark.parametrize("name", ["gpu", "autoscale", "restore"])
def test_one_line_of_the_production_overlays_brings_jobs(name: str, tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    file = tmp_path / "k8s/overlays/gpu/kustomization.yaml"
    line = "  # - ../../components/jobs-postgres"
    text = file.read_text()
    assert text.count(line) == 1
    file.write_text(text.replace(line, line.replace("# ", "")))
    rendered = list(yaml.load_all(manifests.kustomize(tmp_path / "k8s/overlays" / name), manifests.LOADER))
    gateway = Workload(name, "gateway", rendered)
    read = settings(gateway)
    assert read.jobs_database == SECRETS["atelier-jobs"]["database"] and read.jobs_files.startswith("s3://")
    assert read.replicas == gateway.most_replicas > 1
    egress = of_kind(rendered, "NetworkPolicy")["atelier-gateway"]["spec"]["egress"]
    assert {5432, 443} <= {port["port"] for rule in egress for port in rule["ports"]}


def test_only_secrets_hold_what_is_secret_and_only_the_database_must_exist() -> None:
    gateway = Workload("", "gateway", combined("jobs-postgres"))
    config_maps = of_kind(gateway.manifests, "ConfigMap").values()
    secret = {f"{PREFIX}{name.upper()}" for name in GatewaySettings.secret}
    assert not secret & {key for each in config_maps for key in each["data"] if each["data"][key] != "none"}
    references = [entry["valueFrom"]["secretKeyRef"] for entry in gateway.container["env"]]
    assert [r["key"] for r in references if not r.get("optional")] == ["database"]
    assert [s["secretRef"]["optional"] for s in gateway.container["envFrom"] if "secretRef" in s] == [True]
    page = (K8S / "components/jobs-postgres/kustomization.yaml").read_text(encoding="utf-8")
    own = {name: data for name, data in SECRETS.items() if name.startswith("atelier-jobs")}
    documented = {*own, *(key for data in own.values() for key in data)}
    assert all(name in page for name in documented)


def test_the_image_keeps_jobs_on_its_volume_as_jobs_sqlite_does() -> None:
    run = read("gateway")["run"]
    folder, user = run.only("VOLUME"), run.only("USER").split(":")[0]
    assert f"install -d -o {user}" in run.only("RUN") and run.only("RUN").endswith(f" {folder}")
    instructions = [word for word, _ in run.lines]
    assert instructions.index("RUN") < instructions.index("VOLUME"), (
        "the volume starts as a copy of the folder"
    )
    gateway = Workload("", "gateway", combined("jobs-sqlite"))
    assert {"name": "jobs", "mountPath": folder} in gateway.container["volumeMounts"]
    for name in ("JOBS_DATABASE", "JOBS_FILES"):
        assert run.environment()[PREFIX + name] == gateway.setting(name)
