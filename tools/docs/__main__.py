"""The command `python -m tools.docs`, which `make docs` runs."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from atelier_gateway.settings import GatewaySettings
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.settings import RestorerSettings
from tools.docs import automatic1111, http, kubernetes, metrics, models, openai, protos, samplers, settings
from tools.docs.markdown import fenced

ROOT = Path(__file__).parents[2]

BLOCKS: Mapping[str, Callable[[], str]] = {
    "proto generator": partial(protos.package, "atelier.generator.v1"),
    "proto restorer": partial(protos.package, "atelier.restorer.v1"),
    "proto common": partial(protos.package, "atelier.common.v1"),
    "settings gateway": partial(settings.variables, GatewaySettings),
    "settings generator": partial(settings.variables, GeneratorSettings),
    "settings restorer": partial(settings.variables, RestorerSettings),
    "settings renamed": partial(settings.renamed, GatewaySettings, GeneratorSettings, RestorerSettings),
    "metrics": metrics.overview,
    "http generate": partial(http.fields, "/generate"),
    "http restore": partial(http.fields, "/restore"),
    "http jobs": partial(http.fields, "/v1/jobs"),
    "http compare": partial(http.differing_fields, "/compare", "/restore"),
    "http detect": partial(http.fields, "/detect"),
    "http faces": http.face_fields,
    "http errors": http.errors,
    "openai fields": openai.fields,
    "openai qualities": openai.qualities,
    "openai errors": openai.errors,
    "a1111 drawing": partial(automatic1111.used, "txt2img", "img2img"),
    "a1111 extras": partial(automatic1111.used, "extra-single-image", "extra-batch-images"),
    "a1111 ignored": automatic1111.ignored,
    "a1111 refused": automatic1111.refused,
    "a1111 options": partial(automatic1111.options, with_effect=True),
    "a1111 other options": partial(automatic1111.options, with_effect=False),
    "skip reasons": http.skip_reasons,
    "warning codes": http.warning_codes,
    "models": models.components,
    "model sets": models.sets,
    "samplers": samplers.overview,
    "k8s scaling": kubernetes.scaling,
    "k8s draining": kubernetes.draining,
    "k8s alerts": kubernetes.alerts,
    "k8s objectives": kubernetes.objectives,
    "example python_grpc": partial(fenced, ROOT / "examples/python_grpc/restore.py", "python"),
}
"""What each block contains."""

_BLOCK = re.compile(r"(<!-- generated: (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def pages(root: Path = ROOT) -> Iterator[Path]:
    """Yield the Markdown files that may have generated blocks."""
    yield root / "README.md"
    yield from sorted((root / "docs").rglob("*.md"))


def filled(text: str) -> str:
    """Return a page with its blocks rendered from the code. Raises `KeyError` for an unknown one."""
    return _BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block[2]]()}{block[4]}", text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code, 1 if `--check` found a difference."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is outdated")
    check = parser.parse_args(arguments).check
    outdated = 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        current = filled(text)
        if current == text:
            continue
        outdated += 1
        name = page.relative_to(ROOT).as_posix()
        if check:
            lines = difflib.unified_diff(text.splitlines(), current.splitlines(), name, name, lineterm="")
            print(*lines, sep="\n")
        else:
            page.write_text(current, encoding="utf-8")
            print(f"{name} written")
    if check and outdated:
        print("Outdated: run python -m tools.docs", file=sys.stderr)
    return int(check and outdated > 0)


if __name__ == "__main__":
    sys.exit(main())
