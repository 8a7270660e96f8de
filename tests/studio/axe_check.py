"""axe-core, which looks for what keeps people out of a page; `axe/axe.min.js` is its published file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from playwright.sync_api import Page

SOURCE = Path(__file__).with_name("axe") / "axe.min.js"
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@cache
def _source() -> str:
    return SOURCE.read_text(encoding="utf-8")


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with the page as it is now: the rule, and the elements."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(_source())
    found = page.evaluate("(rules) => axe.run({ runOnly: rules, resultTypes: ['violations'] })", _RULES)
    return [
        f"{violation['id']}: {violation['help']}: {[node['html'][:200] for node in violation['nodes']]}"
        for violation in found["violations"]
    ]
