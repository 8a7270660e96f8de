"""Each alert has a page on what to do, and what that names exists: metrics, commands, log lines."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.k8s import queries
from tests.k8s.manifests import ROOT, of_kind, overlay, program
from tests.k8s.promtool import SCENARIOS, run

FOLDER = ROOT / "docs/runbooks"
PAGES = sorted(FOLDER.glob("*.md"))
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

OURS = ("gateway/atelier_gateway", "services")


def blocks(page: Path, language: str) -> list[str]:
    """The lines of all blocks of a language, those in lists included."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in found for line in block.splitlines()]


def test_each_alert_has_its_page_and_each_page_its_alert() -> None:
    assert {page.stem for page in FOLDER.iterdir()} == {rule["alert"] for rule in queries.alert_rules()}
    for rule in queries.alert_rules():
        address = rule["annotations"]["runbook_url"]
        assert address == f"https://atelier.example/docs/runbooks/{rule['alert']}.md"


@EACH_PAGE
def test_a_page_says_what_it_means_what_to_look_at_and_what_to_do(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {page.stem}"
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == ["## What it means", "## What to look at", "## What to do"]
    assert blocks(page, "promql") and blocks(page, "sh"), "for somebody who was woken"


@cache
def known_metrics() -> set[str]:
    """Every name that a process of ours exports or a rule records."""
    suffixes = ("", "_total", "_bucket", "_sum", "_count")
    exported = {f"{family}{suffix}" for family in queries.exported() for suffix in suffixes}
    return exported | {"up", "process_cpu_seconds_total"}


@EACH_PAGE
def test_the_queries_of_a_page_read_metrics_that_exist(page: Path) -> None:
    for query in blocks(page, "promql"):
        read = queries.metrics_in(query)
        assert read and read <= known_metrics(), query
        for matcher in queries.matchers_in(query):
            assert matcher.label in ("job", "code", "status", "backend", "reason"), query


def test_promtool_evaluates_the_queries_of_all_pages(tmp_path: Path) -> None:
    used = {f"{page.stem} {query}": query for page in PAGES for query in blocks(page, "promql")}
    expectation = {"expr": "count(up)", "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": 3}]}
    test: dict[str, Any] = {"interval": "1m", "input_series": SCENARIOS["steady"]}
    run(tmp_path, [test | {"promql_expr_test": [expectation]}], used)


@cache
def help_of(verb: str) -> str:
    """What kubectl says of a command; empty if there is none."""
    command = [program("kubectl"), *verb.split(), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout if f"kubectl {verb}" in done.stdout else ""


@cache
def common_flags() -> str:
    command = [program("kubectl"), "options"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def kubectl_commands(page: Path) -> list[list[str]]:
    """The words of each kubectl command, without the namespace, which is the overlays'."""
    commands = []
    for line in blocks(page, "sh"):
        words = shlex.split(line.partition(" | ")[0])
        assert words[0] == "kubectl", line
        if words[1] != "cordon":  # nodes are in no namespace
            assert words[1:3] == ["-n", "atelier"], line
            del words[1:3]
        commands.append(words[1:])
    return commands


@EACH_PAGE
def test_the_commands_of_a_page_exist_with_their_flags(page: Path) -> None:
    for words in kubectl_commands(page):
        verb = " ".join(words[:2]) if words[0] in ("rollout", "top") else words[0]
        text = help_of(verb)
        assert text, verb
        own = words[: words.index("--")] if "--" in words else words
        for flag in (word.partition("=")[0] for word in own if word.startswith("-")):
            assert re.search(rf"(^|[\s,]){flag}[\s,:=]", text + common_flags(), re.MULTILINE), (verb, flag)


@EACH_PAGE
def test_the_commands_of_a_page_name_what_the_manifests_have(page: Path) -> None:
    rendered = overlay("autoscale")
    deployments = of_kind(rendered, "Deployment")
    labels = {
        d["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] for d in deployments.values()
    }
    for words in kubectl_commands(page):
        for word in words:
            kind, _, name = word.partition("/")
            if kind in ("deployment", "service"):
                assert name in of_kind(rendered, kind.capitalize()), word
            if word.startswith("app.kubernetes.io/name="):
                assert word.partition("=")[2] in labels, word


@EACH_PAGE
def test_a_command_says_something_where_keda_or_an_earlier_container_is_missing(page: Path) -> None:
    for words in kubectl_commands(page):
        kinds = words[1].split(",") if words[0] == "get" else []
        assert "scaledobject" not in kinds or len(kinds) == 1, "kubectl would refuse all of them"
        if words[0] == "logs" and "-l" in words and "--previous" in words:
            assert "--ignore-errors" in words, "it would stop at the first pod that has not restarted"


@cache
def literals() -> set[str]:
    """Every text in the source of our processes."""
    found = set()
    for folder in OURS:
        for path in (ROOT / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found |= {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return found


@EACH_PAGE
def test_log_lines_that_a_page_looks_for_are_written(page: Path) -> None:
    searched = [line.partition(" | grep ")[2] for line in blocks(page, "sh") if " | grep " in line]
    for argument in searched:
        [pattern] = shlex.split(argument)
        assert re.fullmatch(r'"[^"]+"', pattern), pattern
        assert pattern.strip('"') in literals(), pattern


@EACH_PAGE
def test_settings_that_a_page_names_exist(page: Path) -> None:
    table = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:ATELIER_)?[A-Z]+(?:_[A-Z]+)+)`", text):
        assert re.search(rf"`ATELIER_(\w+_)?{name.removeprefix('ATELIER_')}`", table), name
