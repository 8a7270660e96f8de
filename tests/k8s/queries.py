"""Every PromQL expression in k8s/, by the place where it is used, and the names of metrics in one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import torch
import yaml
from prometheus_client import Counter, Gauge, Histogram

from atelier_runtime import metrics
from atelier_runtime.vram import VramCollector
from tests.k8s.manifests import PAGE, Manifest, combined, of_kind, overlay

NAMESPACE = "atelier"
OBJECTIVE = "atelier_slo:objective"
"""Recorded from nothing but a figure."""


def rules() -> list[Manifest]:
    """All groups of rules, in promtool's own form."""
    found = of_kind(overlay("autoscale"), "PrometheusRule").values()
    return [group for rule in found for group in rule["spec"]["groups"]]


def alert_rules() -> list[Manifest]:
    return [rule for group in rules() for rule in group["rules"] if "alert" in rule]


def alerts() -> dict[str, str]:
    """The conditions of the alerts on causes, by name."""
    return {rule["alert"]: rule["expr"] for rule in alert_rules() if not is_burn(rule)}


def burn_alerts() -> dict[str, str]:
    """The conditions of the alerts on error budgets, by name and severity: several have the same name."""
    return {
        f"{rule['alert']} {rule['labels']['severity']}": rule["expr"]
        for rule in alert_rules()
        if is_burn(rule)
    }


def is_burn(rule: Manifest) -> bool:
    return "atelier_slo:burn:" in rule["expr"]


def recorded() -> dict[str, str]:
    """What recording rules compute from metrics, by the name and the labels that they give it."""
    return {
        f"{rule['record']} {rule.get('labels', {})}": rule["expr"]
        for group in rules()
        for rule in group["rules"]
        if "record" in rule and rule["record"] != OBJECTIVE
    }


def dashboard() -> Manifest:
    """Grafana's dashboard, taken from the ConfigMap that the sidecar finds."""
    [config_map] = [
        m
        for m in of_kind(overlay("autoscale"), "ConfigMap").values()
        if m["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
    ]
    [text] = config_map["data"].values()
    found: Manifest = json.loads(text)
    return found


def panels() -> dict[str, str]:
    """The dashboard's queries, for all namespaces."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$namespace", ".*")
        .replace("$__rate_interval", "1m")
        for panel in dashboard()["panels"]
        for target in panel.get("targets", [])
    }


def exported() -> set[str]:
    """The families of metrics of ours; a counter's has no `_total` in its name."""
    ours = [m for m in vars(metrics).values() if isinstance(m, Counter | Gauge | Histogram)]
    collectors = [*ours, VramCollector(torch.device("cuda", 0))]
    return {family.name for collector in collectors for family in collector.describe()}


def autoscalers() -> dict[str, tuple[str, float]]:
    """The autoscalers' queries and thresholds, those that scale to zero included."""
    found = {}
    for kind, manifests in (
        ("", overlay("autoscale")),
        ("to zero: ", combined("keda", "scale-to-zero")),
    ):
        for name, scaled in of_kind(manifests, "ScaledObject").items():
            for trigger in scaled["spec"]["triggers"]:
                metadata = trigger["metadata"]
                key = f"{kind}{name.removeprefix('atelier-')} {trigger['name']}"
                found[key] = (metadata["query"], float(metadata["threshold"]))
    return found


def blocks() -> list[Manifest]:
    """The YAML blocks of the page on Kubernetes."""
    text = PAGE.read_text(encoding="utf-8")
    return [yaml.safe_load(b) for b in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)]


def plain_autoscaler() -> tuple[Manifest, Manifest]:
    """What the page uses instead of KEDA: the adapter's rule, and an autoscaler for the generator."""
    found = blocks()
    [values] = [block for block in found if "rules" in block]
    [autoscaler] = [block for block in found if block.get("kind") == "HorizontalPodAutoscaler"]
    [rule] = values["rules"]["external"]
    return rule, autoscaler


def adapter() -> str:
    """The query of the plain autoscaler's adapter, for the generator."""
    query: str = plain_autoscaler()[0]["metricsQuery"]
    return query.replace("<<.LabelMatchers>>", f'namespace="{NAMESPACE}", job="atelier-generator"')


def metrics_in(query: str) -> set[str]:
    """The names of the metrics that a query reads."""
    without_labels = re.sub(r'\{[^}]*\}|"[^"]*"', "", query)
    without_grouping = re.sub(r"\b(by|on|ignoring|without) *\([^)]*\)", "", without_labels)
    words = set(re.findall(r"(?<![\w.$:])[a-z_][\w:]+\b(?! *\()", without_grouping))
    return words - {"and", "or", "unless", "bool", "offset"} - {"by", "on", "ignoring", "without"}


@dataclass(frozen=True)
class Matcher:
    """One condition on a label of a metric: `kind="free"` of atelier_vram_bytes."""

    metric: str
    label: str
    operator: str
    value: str

    @property
    def selector(self) -> str:
        """What has this value, whether the query selects it or excludes it."""
        operator = self.operator.replace("!=", "=").replace("!", "=")
        return f'{self.metric}{{{self.label}{operator}"{self.value}"}}'


def matchers_in(query: str) -> set[Matcher]:
    """All conditions on labels in a query."""
    return {
        Matcher(metric, *condition)
        for metric, inside in re.findall(r"\b([a-z_][\w:]*)\{([^}]*)\}", query)
        for condition in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside)
    }


def labels_grouped_by(query: str) -> set[str]:
    """The labels that a query sums, counts or joins by."""
    groups = re.findall(r"\b(?:by|on|ignoring|without) *\(([^)]*)\)", query)
    return {label.strip() for group in groups for label in group.split(",")}
