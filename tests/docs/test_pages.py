"""What the pages say that can be checked without running a service."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from atelier_gateway.api.native.errors import Problem
from atelier_gateway.api.native.estimate_response import EstimateAnswer
from atelier_gateway.api.native.generate_response import GenerateAnswer
from atelier_gateway.api.openai.errors import OpenAIErrorAnswer
from atelier_gateway.api.openai.response import ImagesAnswer
from tests.docs.pages import EXCUSED, EXECUTED, ROOT, Block, block, blocks, pages
from tools.docs import __main__ as generator
from tools.docs import metrics
from tools.docs.markdown import anchors, outside_code, slug

README = (ROOT / "README.md").read_text(encoding="utf-8")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FOLDERS = (
    "bench",
    "demo",
    "docker",
    "docs",
    "examples",
    "gateway",
    "k8s",
    "protos",
    "services",
    "tests",
    "tools",
)
_INLINE_CODE = re.compile(r"`[^`]*`")
PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())


@pytest.mark.parametrize("page", list(generator.pages()), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_generated_blocks_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generator.filled(text) == text, "run python -m tools.docs"


def test_an_outdated_page_is_found_and_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    outdated = "<!-- generated: settings gateway -->\nnone\n<!-- end -->\n"
    page.write_text(outdated)
    monkeypatch.setattr(generator, "pages", lambda: [page])
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    assert generator.main(["--check"]) == 1 and page.read_text() == outdated
    assert generator.main([]) == 0 and "ATELIER_GATEWAY_PORT" in page.read_text()
    assert generator.main(["--check"]) == 0


def test_every_block_is_on_a_page_once() -> None:
    texts = [page.read_text(encoding="utf-8") for page in generator.pages()]
    used = re.findall(r"<!-- generated: (.*?) -->\n", "\n".join(texts))
    assert sorted(used) == sorted(generator.BLOCKS)


@pytest.mark.parametrize(
    ("page", "row"),
    [
        ("http-api.md", "| `identity` |"),
        ("http-api.md", "| `identity_changed` |"),
        ("grpc-api.md", "| 3 | `IDENTITY_MODE_GUARD` |"),
        ("grpc-api.md", "| 13 | `SKIP_REASON_IDENTITY_CHANGED` |"),
    ],
)
def test_the_guard_is_described_for_networks_without_a_fidelity_too(page: str, row: str) -> None:
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    [line] = [
        line for line in lines if line.startswith(row) and "face" in line and "As returned" not in line
    ][:1]
    assert "fidelit" in line and "visibilit" in line


@PAGES
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = "\n".join(_INLINE_CODE.sub("", line) for line in outside_code(page.read_text(encoding="utf-8")))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name.replace("\\", "")).resolve() if name else page
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("From 0.1 to 0.2", "from-01-to-02"),
        ("`POST /generate`, as *JSON*", "post-generate-as-json"),
        ("A [link](page.md) in it", "a-link-in-it"),
        ("snake_case stays", "snake_case-stays"),
    ],
)
def test_anchors_are_those_of_github(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor


def test_repeated_headings_have_numbered_anchors() -> None:
    assert anchors("# A\n```\n# no heading\n```\n## A\n### A\n") == {"a", "a-1", "a-2"}


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_index_leads_to_every_page() -> None:
    for index in ("docs/README.md", "docs/decisions/README.md"):
        text = (ROOT / index).read_text(encoding="utf-8")
        for page in (ROOT / index).parent.glob("*.md"):
            assert page.name == "README.md" or f"({page.name})" in text, f"{index} lacks {page.name}"


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
        assert named <= targets, f"{page}: {named - targets}"


@PAGES
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join(_FOLDERS)})/[\w./-]+)`", page.read_text(encoding="utf-8"))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_every_metric_that_a_page_names_exists() -> None:
    known = {re.sub("_total$", "", name) for name in metrics.names()} | {"atelier_service_work"}
    for page in pages():
        if page.name == "CHANGELOG.md":
            continue
        text = page.read_text(encoding="utf-8").partition("### From 0.1 to 0.2")[0]
        named = set(
            re.findall(r"\batelier_[a-z_]+(?:seconds|bytes|total|pending|depth|progress|info)\b", text)
        )
        assert {re.sub("_total$", "", name) for name in named} <= known, page


def _sh_blocks() -> list[Block]:
    return list(blocks("sh"))


@pytest.mark.parametrize("found", _sh_blocks(), ids=lambda b: f"{b.page}: {b.text.splitlines()[0][:40]}")
def test_every_shell_block_is_run_or_excused(found: Block) -> None:
    executed = [name for name, (page, part) in EXECUTED.items() if page == found.page and part in found.text]
    excused = [part for part in EXCUSED if part in found.text]
    assert bool(executed) != bool(excused), f"run by {executed}, excused by {excused}"


@pytest.mark.parametrize(
    ("page", "containing", "model"),
    [
        ("docs/http-api.md", '"image": "data:image/png;base64,...",\n  "prompt"', GenerateAnswer),
        ("docs/http-api.md", '"dry_run": true,', EstimateAnswer),
        ("docs/http-api.md", '"success": false', Problem),
        ("docs/openai.md", '"created": ', ImagesAnswer),
        ("docs/openai.md", '"param": "size"', OpenAIErrorAnswer),
    ],
)
def test_documented_responses_have_the_fields_of_the_real_ones(
    page: str, containing: str, model: type[BaseModel]
) -> None:
    shown = json.loads(block(page, "json", containing))
    only_sometimes = {"image_base64", "images", "strength"}
    assert set(shown) == set(model.model_fields) - only_sometimes
    _same_keys(shown, model.model_validate(shown).model_dump(mode="json"))


def _same_keys(shown: Any, whole: Any) -> None:
    """Lists of objects, too, show every field."""
    if isinstance(shown, list):
        for one, other in zip(shown, whole, strict=True):
            _same_keys(one, other)
    elif isinstance(shown, dict):
        assert set(shown) >= {key for key, value in whole.items() if value is not None}
        for key, value in shown.items():
            _same_keys(value, whole[key])
