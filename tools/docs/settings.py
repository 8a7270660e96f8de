"""The settings of each process, from the classes that read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atelier_runtime.settings import ProcessSettings
from tools.docs.markdown import allowed, code, default, table


def variables(settings: type[ProcessSettings]) -> str:
    """Return a table of all variables of a process."""
    prefix = settings.model_config.get("env_prefix", "")
    properties: Mapping[str, Mapping[str, Any]] = settings.model_json_schema()["properties"]
    return table(
        ("variable", "default", "values", "meaning"),
        (
            (
                code(f"{prefix}{name.upper()}"),
                default(schema.get("default")),
                # a pattern says less than the description
                "" if "pattern" in schema else allowed(schema),
                schema["description"],
            )
            for name, schema in properties.items()
        ),
    )


def renamed(*classes: type[ProcessSettings]) -> str:
    """Return a table of the variables that prevent startup because they have been renamed."""
    return table(
        ("former name", "name"),
        (
            (code(f"{prefix}{former.upper()}"), code(f"{prefix}{name.upper()}"))
            for settings in classes
            for prefix in [settings.model_config.get("env_prefix", "")]
            for former, name in settings.renamed.items()
        ),
    )
