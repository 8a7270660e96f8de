"""How long a start may take, computed from the published files' sizes and what k8s/startup.md assumes."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from atelier_gateway.settings import GatewaySettings
from atelier_restorer.models import ROLES as RESTORERS
from tests.k8s import queries
from tests.k8s.manifests import K8S, ROOT, STAGES, Workload, workloads

TEXT = (K8S / "startup.md").read_text(encoding="utf-8")
[BLOCK] = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
ASSUMED: dict[str, float] = yaml.safe_load(BLOCK)
ROLES = {"generator": ("base", "refiner", "upscaler"), "restorer": RESTORERS}
READS = 2
MB = 1e6

DEPLOYMENTS = pytest.mark.parametrize("workload", [w for w in workloads() if w.name in STAGES], ids=str)


def published_bytes(stage: str) -> int:
    catalogue = tomllib.loads((ROOT / "tools/models/catalogue.toml").read_text(encoding="utf-8"))
    components = catalogue["components"]
    return sum(file["bytes"] for role in ROLES[stage] for file in components[role]["files"])


def load_s(stage: str, volume_mb_per_s: float = ASSUMED["volume_mb_per_s"]) -> float:
    size_mb = published_bytes(stage) / MB
    reading, summing = READS * size_mb / volume_mb_per_s, size_mb / ASSUMED["sha256_mb_per_s"]
    return reading + summing + ASSUMED["warm_up_s"]


def window_s(workload: Workload) -> int:
    probe = workload.container["startupProbe"]
    seconds: int = probe["periodSeconds"] * probe["failureThreshold"]
    return seconds


@pytest.mark.parametrize("stage", STAGES)
def test_the_page_says_what_comes_out(stage: str) -> None:
    load = load_s(stage)
    row = f"| {stage} | {published_bytes(stage) / 1e9:.2f} GB | {load:.0f} s | {2 * load:.0f} s |"
    assert row in TEXT, row


@DEPLOYMENTS
def test_the_window_is_twice_the_load(workload: Workload) -> None:
    assert window_s(workload) >= 2 * load_s(workload.name)
    assert f"{window_s(workload) // 60} minutes" in TEXT


@DEPLOYMENTS
def test_a_rollout_waits_for_node_image_and_load(workload: Workload) -> None:
    spec = workload.deployment["spec"]
    needed = ASSUMED["image_and_node_s"] + window_s(workload) + spec["minReadySeconds"]
    assert needed <= spec["progressDeadlineSeconds"]
    assert f"`progressDeadlineSeconds` {spec['progressDeadlineSeconds']}," in TEXT


@DEPLOYMENTS
def test_the_alert_of_one_replica_is_told_after_a_load_and_before_the_probe_gives_up(
    workload: Workload,
) -> None:
    [rule] = [
        r for group in queries.rules() for r in group["rules"] if r["alert"] == "AtelierReplicaNotReady"
    ]
    minutes = int(rule["for"].removesuffix("m"))
    # a restart by the probe breaks the series, and the alert would begin to wait anew
    assert load_s(workload.name) < 60 * minutes <= window_s(workload) - 60


def test_what_scaling_to_zero_needs_is_said() -> None:
    [given] = re.findall(r"A call waits (\d+) s for a start", TEXT)
    settings = (K8S / "components/scale-to-zero/gateway.yaml").read_text(encoding="utf-8")
    assert f'ATELIER_GATEWAY_STAGE_WAIT_SECONDS, value: "{given}"' in settings
    assert f"at most {GatewaySettings().deadline_seconds:.0f} s" in TEXT
    [fast] = re.findall(r"(\d+) MB/s are enough", TEXT)
    assert load_s("generator", float(fast)) <= int(given) < load_s("generator", 0.9 * float(fast))
