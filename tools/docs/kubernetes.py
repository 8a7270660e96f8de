"""Figures of the manifests in k8s/, read from the files themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tools.docs.markdown import code, table

K8S = Path(__file__).parents[2] / "k8s"
NAMES = ("gateway", "generator", "restorer")


def scaling() -> str:
    """Return a table of how each service scales."""
    rows = []
    for name in NAMES:
        spec = _load(f"components/keda/{name}.yaml")["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        targets = {trigger["name"]: trigger["metadata"]["threshold"] for trigger in spec["triggers"]}
        rows.append(
            (
                name,
                f"{spec['minReplicaCount']} to {spec['maxReplicaCount']}",
                targets["work"],
                targets["jobs"],
                _steps(behavior["scaleUp"]),
                _steps(behavior["scaleDown"]),
                str(spec["fallback"]["replicas"]),
            )
        )
    header = ("", "replicas", "calls per replica", "or jobs", "up", "down", "without Prometheus, at least")
    return table(header, rows)


def draining() -> str:
    """Return a table of what a terminating pod does, and when the old one goes."""
    rows = []
    for name in NAMES:
        deployment = _load(f"base/{name}/deployment.yaml")["spec"]
        [container] = deployment["template"]["spec"]["containers"]
        continues_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        finishes_s = _environment(name)[f"ATELIER_{name.upper()}_DRAIN_SECONDS"]
        rows.append((name, f"{continues_s} s", f"{finishes_s} s", f"{deployment['minReadySeconds']} s"))
    header = ("", "continues to serve for", "then finishes its work within", "a new pod is ready for, first")
    return table(header, rows)


def alerts() -> str:
    """Return a table of the alerts, those on error budgets first."""
    rules = [
        rule
        for file in ("slo", "alerts")
        for group in _load(f"components/monitoring/{file}.yaml")["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    return table(
        ("alert", "severity", "fires after", "meaning"),
        (
            (
                f"[{code(rule['alert'])}](runbooks/{rule['alert']}.md)",
                rule["labels"]["severity"],
                rule.get("for", "[see there](slo.md#when-somebody-is-told)"),
                rule["annotations"]["description"],
            )
            for rule in rules
        ),
    )


def objectives() -> str:
    """Return a table of the objectives, as they are without a patch."""
    [group] = _load("components/monitoring/objectives.yaml")["spec"]["groups"]
    rows = []
    for rule in group["rules"]:
        labels = rule["labels"]
        share = float(rule["expr"].removeprefix("vector(").removesuffix(")"))
        within = f"{float(labels['le']):g} s" if "le" in labels else ""
        rows.append((code(labels["slo"]), code(labels["kind"]), f"{100 * share:g}%", within))
    return table(("objective", "of", "good, of 30 days", "within"), rows)


def _steps(direction: Any) -> str:
    [policy] = direction["policies"]
    window_s = direction["stabilizationWindowSeconds"]
    wait = f"after {window_s // 60} min" if window_s else "at once"
    return f"{policy['value']} per {policy['periodSeconds']} s, {wait}"


def _environment(name: str) -> dict[str, str]:
    lines = (K8S / f"base/{name}/settings.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _load(file: str) -> Any:
    return yaml.safe_load((K8S / file).read_text(encoding="utf-8"))
