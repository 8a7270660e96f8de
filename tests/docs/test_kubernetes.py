"""The commands in docs/kubernetes.md do to the manifests what they say; its figures are generated."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import yaml

from tests.k8s.manifests import K8S, NAMES, ROOT, Workload, kustomize, of_kind, overlay

PAGE = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")


def test_two_commands_set_the_registry_and_apply_what_has_it(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    [commands] = re.findall(r"^```sh\n(sed .*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    setting, applying = commands.splitlines()
    subprocess.run(["bash", "-ec", setting], cwd=tmp_path, check=True, timeout=60)
    folder = tmp_path / applying.removeprefix("kubectl apply -k ")
    rendered = list(yaml.safe_load_all(kustomize(folder)))
    images = [Workload("", name, rendered).container["image"] for name in NAMES]
    assert {image.rpartition(":")[0] for image in images} == {
        f"YOUR.REGISTRY/atelier/{name}" for name in NAMES
    }
    built = set(re.findall(r"docker (?:build .* -t|push) (\S+)", PAGE))
    assert {image.replace("$name", name) for image in built for name in NAMES} == set(images)


def test_a_digest_pins_an_image_in_the_same_file(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    file = tmp_path / "k8s/components/images/kustomization.yaml"
    digest = f"sha256:{'0' * 64}"
    file.write_text(re.sub(r"newTag: [\d.]+", f"digest: {digest}", file.read_text()))
    rendered = list(yaml.safe_load_all(kustomize(tmp_path / "k8s/overlays/autoscale")))
    for name in NAMES:
        image = Workload("", name, rendered).container["image"]
        assert image == f"registry.example/atelier/{name}@{digest}"
    [shown] = [
        b for b in re.findall(r"^ *```yaml\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE) if "digest" in b
    ]
    [entry] = yaml.safe_load(shown)["images"]
    assert entry.keys() == yaml.safe_load(file.read_text())["images"][0].keys() and entry["digest"] == digest


def test_the_volume_is_the_one_that_the_manifests_require() -> None:
    [claim] = of_kind(overlay("gpu"), "PersistentVolumeClaim").values()
    assert f"`{claim['spec']['volumeName']}`" in PAGE
    assert claim["spec"]["accessModes"] == ["ReadOnlyMany"]
    for name in ("generator", "restorer"):
        workload = Workload("gpu", name, overlay("gpu"))
        mounted = {mount["name"]: mount["mountPath"] for mount in workload.container["volumeMounts"]}
        [volume] = [volume for volume in workload.pod["volumes"] if "persistentVolumeClaim" in volume]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert workload.setting("MODEL_SET") == f"{mounted[volume['name']]}/sdxl"
    assert "in its folder `sdxl`" in PAGE


def test_the_overlay_for_a_restorer_alone_with_autoscaling_renders(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    folder = tmp_path / "k8s/overlays/restore-autoscale"
    folder.mkdir()
    [text] = re.findall(r"^```yaml\n(.*?restores-only.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (folder / "kustomization.yaml").write_text(text)
    rendered = list(yaml.safe_load_all(kustomize(folder)))
    for kind in ("Deployment", "ScaledObject", "PodMonitor"):
        assert of_kind(rendered, kind).keys() == {"atelier-gateway", "atelier-restorer"}
    assert {m["metadata"].get("namespace", "atelier") for m in rendered} == {"atelier"}


def test_a_gateway_finishes_within_its_whole_deadline() -> None:
    gateway = Workload("gpu", "gateway", overlay("gpu"))
    assert gateway.setting("DRAIN_SECONDS") == gateway.setting("DEADLINE_SECONDS")


def test_scaling_without_keda_has_the_restorers_figures_too() -> None:
    spec = of_kind(overlay("autoscale"), "ScaledObject")["atelier-restorer"]["spec"]
    [trigger] = [trigger for trigger in spec["triggers"] if trigger["name"] == "work"]
    text = " ".join(PAGE.split())
    assert f'{spec["maxReplicaCount"]} replicas, `averageValue: "{trigger["metadata"]["threshold"]}"`' in text
