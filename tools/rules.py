"""`python -m tools.rules`: Prometheus' own rule file for compose.yaml, from the operator's in k8s/.

`make docs` runs it; a test compares.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "k8s/components/monitoring"
TARGET = ROOT / "docker/compose/rules.yml"
_HEADER = "# Made from k8s/components/monitoring by `make docs`.\n"


def rules() -> str:
    """Return the text of the rule file: the groups of every PrometheusRule, in the order of their names."""
    groups: list[Any] = []
    for file in sorted(SOURCE.glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if manifest["kind"] == "PrometheusRule":
                groups += manifest["spec"]["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        rule["expr"] = " ".join(rule["expr"].split())
    return _HEADER + yaml.safe_dump({"groups": groups}, sort_keys=False, width=10_000)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code, 1 if `--check` found a difference."""
    parser = argparse.ArgumentParser(prog="python -m tools.rules", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the file is outdated")
    if parser.parse_args(arguments).check:
        return int(not TARGET.exists() or TARGET.read_text(encoding="utf-8") != rules())
    TARGET.write_text(rules(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
