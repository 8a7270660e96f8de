"""How long a start may take, by the published files' sizes and what the page assumes."""

from __future__ import annotations

import tomllib

import pytest

from atelier_gateway.settings import GatewaySettings
from atelier_generator.settings import GeneratorSettings, read_sizes
from atelier_restorer.models import ROLES as RESTORERS
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.settings import ServiceSettings
from tests.k8s import page, queries
from tests.k8s.manifests import BACKENDS, ROOT, Workload, combined, of_kind, workloads

ASSUMED: dict[str, float] = next(block for block in queries.blocks() if "warm_up_s" in block)
ROLES = {"generator": ("base", "refiner", "upscaler"), "restorer": RESTORERS}
READS = 1
MB = 1e6

DEPLOYMENTS = pytest.mark.parametrize("workload", [w for w in workloads() if w.name in BACKENDS], ids=str)


def published_bytes(service: str) -> int:
    catalog = tomllib.loads((ROOT / "tools/models/catalogue.toml").read_text(encoding="utf-8"))
    components = catalog["components"]
    return sum(file["bytes"] for role in ROLES[service] for file in components[role]["files"])


COMPILED = [
    Workload("compiled", name, combined("weights-volume", "compiled")) for name in ("generator", "restorer")
]


def load_s(service: str, volume_mb_per_s: float = ASSUMED["volume_mb_per_s"]) -> float:
    size_mb = published_bytes(service) / MB
    reading, summing = READS * size_mb / volume_mb_per_s, size_mb / ASSUMED["sha256_mb_per_s"]
    return reading + summing + ASSUMED["warm_up_s"]


def alert_minutes() -> int:
    [rule] = [r for r in queries.alert_rules() if r["alert"] == "AtelierReplicaNotReady"]
    return int(rule["for"].removesuffix("m"))


def settings(workload: Workload) -> ServiceSettings:
    """The settings as the process will read them from the manifests' variables."""
    prefix = f"ATELIER_{workload.name.upper()}_"
    values = {k.removeprefix(prefix).lower(): v for k, v in workload.environment.items()}
    classes: dict[str, type[ServiceSettings]] = {"generator": GeneratorSettings, "restorer": RestorerSettings}
    return classes[workload.name].model_validate(values)


def window_s(workload: Workload) -> int:
    probe = workload.container["startupProbe"]
    seconds: int = probe["periodSeconds"] * probe["failureThreshold"]
    return seconds


@pytest.mark.parametrize("service", BACKENDS)
def test_the_page_has_the_computed_figures(service: str) -> None:
    assert round(published_bytes(service) / 1e9, 2) in page.figures("GB")
    assert {round(load_s(service)), round(2 * load_s(service))} <= page.figures("s")


@pytest.mark.parametrize("workload", COMPILED, ids=str)
def test_networks_that_are_compiled_have_the_time_for_it(workload: Workload) -> None:
    load, spec = load_s(workload.name) + ASSUMED["compile_s"], workload.deployment["spec"]
    assert {round(load), round(2 * load)} <= page.figures("s")
    assert window_s(workload) >= 2 * load and window_s(workload) / 60 in page.figures("minutes")
    needed = ASSUMED["image_and_node_s"] + window_s(workload) + spec["minReadySeconds"]
    assert needed <= spec["progressDeadlineSeconds"] and spec["progressDeadlineSeconds"] in page.figures()
    assert load < 60 * alert_minutes() <= window_s(workload) - 60
    if isinstance(read := settings(workload), GeneratorSettings):
        assert (read.max_batch, len(read_sizes(read.warm_sizes))) == (1, 1), "what `compile_s` is for"


@pytest.mark.parametrize("workload", COMPILED, ids=str)
def test_what_was_compiled_outlives_the_pod_and_services_do_not_share_it(workload: Workload) -> None:
    read = settings(workload)
    assert read.compile == "blocks" and read.compile_cache == f"/compiled/{workload.name}"
    mounts = {mount["mountPath"]: mount for mount in workload.container["volumeMounts"]}
    assert not mounts["/compiled"].get("readOnly")
    [volume] = [v for v in workload.pod["volumes"] if v["name"] == mounts["/compiled"]["name"]]
    claim = of_kind(workload.manifests, "PersistentVolumeClaim")[volume["persistentVolumeClaim"]["claimName"]]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "every replica writes"
    assert claim["spec"]["resources"]["requests"]["storage"], "bounded"


@DEPLOYMENTS
def test_the_window_is_twice_the_load(workload: Workload) -> None:
    assert window_s(workload) >= 2 * load_s(workload.name)
    assert window_s(workload) / 60 in page.figures("minutes")


@DEPLOYMENTS
def test_a_rollout_waits_for_node_image_and_load(workload: Workload) -> None:
    spec = workload.deployment["spec"]
    needed = ASSUMED["image_and_node_s"] + window_s(workload) + spec["minReadySeconds"]
    assert needed <= spec["progressDeadlineSeconds"]
    assert spec["progressDeadlineSeconds"] in page.figures()


@DEPLOYMENTS
def test_the_alert_of_one_replica_fires_after_a_load_and_before_the_probe_fails(workload: Workload) -> None:
    # a restart by the probe breaks the series, and the alert would wait again from the start
    assert load_s(workload.name) < 60 * alert_minutes() <= window_s(workload) - 60


def test_the_page_has_what_scaling_to_zero_needs() -> None:
    gateway = Workload("to-zero", "gateway", combined("keda", "scale-to-zero"))
    wait = float(gateway.setting("BACKEND_WAIT_SECONDS") or 0)
    assert {wait, GatewaySettings().deadline_seconds} <= page.figures("s")
    other_speeds = page.figures("MB/s") - {ASSUMED["volume_mb_per_s"]}
    assert any(load_s("generator", s) <= wait < load_s("generator", 0.9 * s) for s in other_speeds)
