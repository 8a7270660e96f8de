"""A browser for all tests of the page, and a window for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import chromium
from tests.processes import Atelier
from tests.studio.studio import Studio, studio

expect.set_options(timeout=30_000)  # for cores that are busy with networks; what holds is seen at once


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for all tests of a run: while Playwright is there, asyncio runs no other loop in this thread."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def window(browser: Browser, atelier: Atelier) -> Iterator[Studio]:
    """A window on three real processes with the demo models."""
    with studio(browser, atelier.url) as opened:
        yield opened
