r"""Make the JSON schemas in this folder: what the manifests of operators may contain.

    python tests/k8s/schemas/make.py

The operators publish their kinds as CustomResourceDefinitions. Packages on PyPI, all Apache-2.0, hold them as
pydantic models. Only this script needs these packages, so they are installed by hand; they need
Python 3.14:

    pip install cloudcoil-models-keda==2.20.2.1 cloudcoil-models-prometheus-operator==0.93.1.1 \
        cloudcoil-models-cert-manager==1.21.1.1

The schemas are stricter than the operators: no unknown keys, no nulls, nothing that only a cluster writes.
"""

from __future__ import annotations

import json
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

KINDS = {
    "Certificate": ("cert-manager", "cloudcoil-models-cert-manager", "cloudcoil.models.cert_manager.v1"),
    "Issuer": ("cert-manager", "cloudcoil-models-cert-manager", "cloudcoil.models.cert_manager.v1"),
    "ScaledObject": ("KEDA", "cloudcoil-models-keda", "cloudcoil.models.keda.v1alpha1"),
    "PodMonitor": (
        "the Prometheus operator",
        "cloudcoil-models-prometheus-operator",
        "cloudcoil.models.prometheus_operator.v1",
    ),
    "PrometheusRule": (
        "the Prometheus operator",
        "cloudcoil-models-prometheus-operator",
        "cloudcoil.models.prometheus_operator.v1",
    ),
}
LEFT_OUT = {"Issuer": ("acme", "vault", "venafi")}
"""Keys of `spec` that no manifest here has, and whose schemas are long."""
METADATA = ("annotations", "labels", "name", "namespace")
PROSE = {"title", "description", "default", "examples"}
Schema = dict[str, Any]


def inlined(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return a schema without references, prose and nulls, whose objects allow only the keys they list."""
    if "$ref" in schema:
        return inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    made = {key: value for key, value in schema.items() if key not in PROSE}
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = inlined(made[key], definitions)
    if "properties" in made:
        made["properties"] = {
            name: inlined(value, definitions) for name, value in sorted(made["properties"].items())
        }
        made["additionalProperties"] = False
    if "anyOf" in made:
        choices = [inlined(choice, definitions) for choice in made.pop("anyOf")]
        choices = [choice for choice in choices if choice != {"type": "null"}]
        made |= choices[0] if len(choices) == 1 else {"anyOf": choices}
    return made


def schema_of(kind: str) -> Schema:
    """Return the schema of a manifest of this kind."""
    operator, package, module = KINDS[kind]
    model = getattr(import_module(module), kind)
    schema: Schema = model.model_json_schema(by_alias=True)
    made = inlined(schema, schema.pop("$defs"))
    properties = {key: value for key, value in made["properties"].items() if key != "status"}
    for key in LEFT_OUT.get(kind, ()):
        del properties["spec"]["properties"][key]
    names = properties["metadata"]["properties"]
    properties["metadata"]["properties"] = {key: names[key] for key in METADATA}
    properties["metadata"]["required"] = ["name"]
    origin = f"{operator}'s CustomResourceDefinition by {package} {metadata.version(package)}, Apache-2.0"
    return {
        "$comment": origin,
        **made,
        "properties": properties,
        "required": ["apiVersion", "kind", "metadata", "spec"],
    }


if __name__ == "__main__":
    for name in KINDS:
        text = json.dumps(schema_of(name), indent=1)
        (Path(__file__).parent / f"{name}.json").write_text(text + "\n", encoding="utf-8")
