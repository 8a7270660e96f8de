"""The figures that the README tells platform engineers are those of the manifests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s import queries
from tests.k8s.manifests import K8S, NAMES, ROOT, Manifest, Workload, kustomize, of_kind, overlay

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = " ".join(README[README.index("### Kubernetes") : README.index("## Licences")].split())
SCALED = {
    name.removeprefix("atelier-"): scaled["spec"]
    for name, scaled in of_kind(overlay("autoscale"), "ScaledObject").items()
}


def figures(words: str) -> tuple[float, ...]:
    """The figures that stand at each # of some words of the README."""
    pattern = re.escape(words).replace(r"\#", r"(\d+(?:\.\d+)?)")
    found = re.search(pattern, SECTION)
    assert found, f"the README no longer says: {words}"
    return tuple(float(figure) for figure in found.groups())


def bounds(name: str) -> tuple[int, int]:
    return SCALED[name]["minReplicaCount"], SCALED[name]["maxReplicaCount"]


def behavior(name: str, direction: str) -> Manifest:
    found: Manifest = SCALED[name]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"][direction]
    return found


def test_two_commands_set_the_registry_and_apply_what_has_it(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    [commands] = re.findall(r"^```sh\n(sed .*?)^```", README, re.DOTALL | re.MULTILINE)
    setting, applying = commands.splitlines()
    subprocess.run(["bash", "-ec", setting], cwd=tmp_path, check=True, timeout=60)
    folder = tmp_path / applying.removeprefix("kubectl apply -k ")
    rendered = list(yaml.safe_load_all(kustomize(folder)))
    images = [Workload("", name, rendered).container["image"] for name in NAMES]
    assert images == [f"YOUR.REGISTRY/atelier/{name}:0.1.0" for name in NAMES]
    assert f"`docker build -f docker/gateway.Dockerfile -t {images[0]} .`" in SECTION


def test_a_digest_pins_an_image_in_the_same_file(tmp_path: Path) -> None:
    assert "pin them by `digest:` in the same file" in SECTION
    shutil.copytree(K8S, tmp_path / "k8s")
    file = tmp_path / "k8s/components/images/kustomization.yaml"
    digest = f"sha256:{'0' * 64}"
    file.write_text(file.read_text().replace("newTag: 0.1.0", f"digest: {digest}"))
    rendered = list(yaml.safe_load_all(kustomize(tmp_path / "k8s/overlays/autoscale")))
    for name in NAMES:
        image = Workload("", name, rendered).container["image"]
        assert image == f"registry.example/atelier/{name}@{digest}"


def test_what_to_set_is_what_the_manifests_ask_for() -> None:
    [claim] = of_kind(overlay("gpu"), "PersistentVolumeClaim").values()
    assert f"a PersistentVolume named `{claim['spec']['volumeName']}` that many nodes can read" in SECTION
    assert claim["spec"]["accessModes"] == ["ReadOnlyMany"]
    for name in ("generator", "restorer"):
        workload = Workload("gpu", name, overlay("gpu"))
        mounted = {mount["name"]: mount["mountPath"] for mount in workload.container["volumeMounts"]}
        [volume] = [volume for volume in workload.pod["volumes"] if "persistentVolumeClaim" in volume]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert workload.setting("MODEL_SET") == f"{mounted[volume['name']]}/sdxl"
    assert "with [the model set](#production-models) in its folder `sdxl`" in SECTION


def test_how_many_there_may_be() -> None:
    assert figures("# to # │ no state, no GPU") == bounds("gateway")
    assert figures("one GPU each; # to # and # to #,") == (*bounds("generator"), *bounds("restorer"))


def test_how_scaling_decides() -> None:
    thresholds = [float(SCALED[name]["triggers"][0]["metadata"]["threshold"]) for name in NAMES]
    gateway, generator, restorer = thresholds
    words = "# in a generator, # in a restorer, whose requests share batches, # in a gateway"
    assert figures(words) == (generator, restorer, gateway)
    assert figures("Every # s KEDA asks") == (SCALED["generator"]["pollingInterval"],)
    assert "by two pods a minute; down by one pod a minute" in SECTION
    stages, gateways = figures("after # minutes (gateways #)")
    for name in NAMES:
        [up], [down] = (behavior(name, direction)["policies"] for direction in ("scaleUp", "scaleDown"))
        assert (up["value"], up["periodSeconds"], down["value"], down["periodSeconds"]) == (2, 60, 1, 60)
        window_s = behavior(name, "scaleDown")["stabilizationWindowSeconds"]
        assert window_s == 60 * (gateways if name == "gateway" else stages)
        assert SCALED[name]["fallback"]["replicas"] == 2 and "and at least two" in SECTION


@pytest.mark.parametrize("name", ["cpu-demo", "gpu", "autoscale"])
def test_what_an_upgrade_does(name: str) -> None:
    gateway, generator, restorer = (Workload(name, process, overlay(name)) for process in NAMES)
    waits = [w.container["lifecycle"]["preStop"]["sleep"]["seconds"] for w in (generator, restorer, gateway)]
    stages, gateways = figures("serves on for # s (gateways # s)")
    assert waits == [stages, stages, gateways]
    words = "(generators # s, restorers # s, gateways their whole deadline of # s)"
    drains = tuple(float(w.setting("DRAIN_SECONDS") or 0) for w in (generator, restorer, gateway))
    assert figures(words) == drains
    assert drains[2] == float(gateway.setting("DEADLINE_SECONDS") or 0)
    assert figures("leaves # s after the new one is ready") == (
        generator.deployment["spec"]["minReadySeconds"],
    )
    assert figures("a call waits # s for one") == (float(gateway.setting("BACKEND_WAIT_SECONDS") or 0),)


def test_what_to_watch() -> None:
    rules = {rule["alert"]: rule["expr"] for group in queries.rules() for rule in group["rules"]}
    assert "and seven alerts:" in SECTION and len(rules) == 7
    [seconds] = figures("5 % of requests waiting over # s")
    assert rules["AtelierQueueWait"].endswith(f"> {seconds:.0f}")
    for words, alert in (
        ("more than # % of calls", "AtelierRefusals"),
        ("memory above # %", "AtelierVramNearlyFull"),
    ):
        [percent] = figures(words)
        assert rules[alert].endswith(f"> {percent / 100:g}".rstrip("0")) or rules[alert].endswith(
            f"> {percent / 100:.2f}"
        )
