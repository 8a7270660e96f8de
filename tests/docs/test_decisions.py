"""Every decision is listed."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"


def test_every_page_is_in_the_list() -> None:
    listed = (FOLDER / "README.md").read_text()
    pages = [page.name for page in FOLDER.glob("*.md") if page.name != "README.md"]
    assert len(pages) > 10
    assert [page for page in pages if f"({page})" not in listed] == []
