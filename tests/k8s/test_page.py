"""The page for platform engineers has the figures, names and commands of the manifests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s import page, queries
from tests.k8s.manifests import K8S, NAMES, OVERLAYS, PAGE, Manifest, Workload, kustomize, of_kind, overlay

SCALED = {
    name.removeprefix("atelier-"): scaled["spec"]
    for name, scaled in of_kind(overlay("autoscale"), "ScaledObject").items()
}
IMAGES = "k8s/components/images/kustomization.yaml"


def rendered_after(command: str, folder: Path) -> list[Manifest]:
    """What the overlay `gpu` becomes after a shell command in a copy of the repository's k8s/."""
    shutil.copytree(K8S, folder / "k8s")
    subprocess.run(["bash", "-ec", command], cwd=folder, check=True, timeout=60)
    return list(yaml.safe_load_all(kustomize(folder / "k8s/overlays/gpu")))


def test_the_command_on_the_page_sets_the_registry(tmp_path: Path) -> None:
    [command] = re.findall(r"^sed -i .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    rendered = rendered_after(command, tmp_path)
    images = [Workload("", name, rendered).container["image"] for name in NAMES]
    assert all(image.startswith("YOUR.REGISTRY/atelier/") for image in images)
    assert all(image.rpartition(":")[2] in page.text() for image in images), "built with the same tag"


def test_a_digest_pins_an_image_in_the_same_file(tmp_path: Path) -> None:
    digest = f"sha256:{'0' * 64}"
    rendered = rendered_after(f"sed -i 's/newTag: [0-9.]*/digest: {digest}/' {IMAGES}", tmp_path)
    assert "`digest:`" in page.text()
    for name in NAMES:
        image = Workload("", name, rendered).container["image"]
        assert image == f"registry.example/atelier/{name}@{digest}"


def test_the_volume_is_the_one_that_the_manifests_claim() -> None:
    [claim] = of_kind(overlay("gpu"), "PersistentVolumeClaim").values()
    assert f"`{claim['spec']['volumeName']}`" in page.text()
    assert claim["spec"]["accessModes"] == ["ReadOnlyMany"]
    for name in ("generator", "restorer"):
        workload = Workload("gpu", name, overlay("gpu"))
        mounted = {mount["name"]: mount["mountPath"] for mount in workload.container["volumeMounts"]}
        [volume] = [volume for volume in workload.pod["volumes"] if "persistentVolumeClaim" in volume]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert workload.setting("MODEL_SET") == f"{mounted[volume['name']]}/sdxl"
    assert "`sdxl`" in page.text()


@pytest.mark.parametrize("name", NAMES)
def test_scaling(name: str) -> None:
    spec = SCALED[name]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert f"{spec['minReplicaCount']} to {spec['maxReplicaCount']}" in page.text()
    assert float(spec["triggers"][0]["metadata"]["threshold"]) in page.figures(f"in a {name}")
    assert spec["pollingInterval"] in page.figures("s")
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] / 60 in page.figures()
    [up], [down] = (behavior[direction]["policies"] for direction in ("scaleUp", "scaleDown"))
    assert (up["value"], up["periodSeconds"], down["value"], down["periodSeconds"]) == (2, 60, 1, 60)
    assert spec["fallback"]["replicas"] == 2


def test_scaling_without_keda() -> None:
    _, threshold = queries.autoscalers()["restorer work"]
    assert f'averageValue: "{threshold:.0f}"' in page.text()
    assert SCALED["restorer"]["maxReplicaCount"] in page.figures("replicas")


@pytest.mark.parametrize("name", OVERLAYS)
def test_upgrading(name: str) -> None:
    gateway, generator, restorer = (Workload(name, process, overlay(name)) for process in NAMES)
    seconds: list[float] = []
    for workload in (gateway, generator, restorer):
        seconds.append(workload.container["lifecycle"]["preStop"]["sleep"]["seconds"])
        seconds.append(float(workload.setting("DRAIN_SECONDS") or 0))
    seconds += [float(gateway.setting(key) or 0) for key in ("DEADLINE_SECONDS", "BACKEND_WAIT_SECONDS")]
    seconds += [generator.deployment["spec"]["minReadySeconds"]]
    assert set(seconds) <= page.figures("s")
    assert gateway.setting("DRAIN_SECONDS") == gateway.setting("DEADLINE_SECONDS")


def test_alerts() -> None:
    thresholds = {name: expr.rpartition("> ")[2].strip() for name, expr in queries.alerts().items()}
    assert len(thresholds) == 7 and "seven alerts" in page.text()
    assert float(thresholds["AtelierQueueWait"]) in page.figures("s")
    for name in ("AtelierRefusals", "AtelierVramNearlyFull"):
        assert round(100 * float(thresholds[name]), 1) in page.figures("%")
