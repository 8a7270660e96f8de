"""Scaling without KEDA: the manifests on the page are valid and scale as KEDA does."""

from __future__ import annotations

import kubernetes_validate
import pytest

from tests.k8s import page, queries
from tests.k8s.manifests import of_kind, overlay


@pytest.mark.parametrize("version", ["1.33", "1.35", "1.37"])
def test_the_autoscaler_is_valid(version: str) -> None:
    _, autoscaler = queries.plain_autoscaler()
    kubernetes_validate.validate(autoscaler, version, strict=True)
    autoscaler["spec"]["behaviour"] = autoscaler["spec"].pop("behavior")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(autoscaler, version, strict=True)


def test_it_scales_the_same_deployment_by_the_same_sum_within_the_same_bounds() -> None:
    rule, autoscaler = queries.plain_autoscaler()
    spec = autoscaler["spec"]
    keda = of_kind(overlay("autoscale"), "ScaledObject")["atelier-generator"]
    target = spec["scaleTargetRef"]
    assert target["name"] == keda["spec"]["scaleTargetRef"]["name"]
    assert autoscaler["metadata"]["namespace"] == keda["metadata"]["namespace"]
    bounds = keda["spec"]["minReplicaCount"], keda["spec"]["maxReplicaCount"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == bounds
    assert spec["behavior"] == keda["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]

    query, threshold = queries.autoscalers()["generator work"]
    assert queries.adapter().endswith(f"({query.removeprefix('sum(')}")
    [metric] = spec["metrics"]
    external = metric["external"]
    assert external["metric"]["name"] == rule["name"]["as"]
    assert external["metric"]["selector"]["matchLabels"] == {"job": "atelier-generator"}
    assert external["target"] == {"type": "AverageValue", "averageValue": f"{1000 * threshold:.0f}m"}


def test_the_page_has_the_restorers_figures_too() -> None:
    _, threshold = queries.autoscalers()["restorer work"]
    most = of_kind(overlay("autoscale"), "ScaledObject")["atelier-restorer"]["spec"]["maxReplicaCount"]
    assert most in page.figures("replicas") and f'averageValue: "{threshold:.0f}"' in page.text()
