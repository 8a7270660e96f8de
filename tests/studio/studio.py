"""The page in real Chromium: opened as a person opens it, and watched for what must never happen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route

START_MS = 60_000
"""For what waits for networks on busy cores; in no test is it how long something may take."""


class Studio:
    """A browser's window with a profile of its own: nothing is left from other tests.

    All other origins are blocked; that one was asked for, an error in the console, an exception and a
    violation of the Content-Security-Policy are kept in `faults`. Requests that the page itself lets fail are
    none.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        parts = urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self.faults: list[str] = []
        self.expected: list[str] = []
        """Parts of faults that a test provokes."""
        context.set_default_timeout(START_MS)
        context.route("**/*", self._only_own_origin)

    def open(self, address: str = "") -> Page:
        """Open the page in a new tab; `address`: such as `#restore`."""
        page = self.context.new_page()
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.goto(f"{self.url}/{address}")
        page.get_by_role("tablist").wait_for()
        return page

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(message.text)

    def _only_own_origin(self, route: Route, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("blob", "data") or f"{parts.scheme}://{parts.netloc}" == self._origin:
            route.continue_()
            return
        self.faults.append(f"asked for {request.url}")
        route.abort()

    def unexpected(self) -> list[str]:
        """The faults that no test has provoked."""
        return [fault for fault in self.faults if not any(part in fault for part in self.expected)]


@contextmanager
def studio(
    browser: Browser, url: str, *, width: int = 1280, height: int = 900, **options: Any
) -> Iterator[Studio]:
    """A window of that size; on leaving, there must have been no fault."""
    usual: dict[str, Any] = {"locale": "en-US", "reduced_motion": "reduce", "accept_downloads": True}
    context = browser.new_context(viewport={"width": width, "height": height}, **{**usual, **options})
    opened = Studio(context, url)
    try:
        yield opened
        assert not opened.unexpected(), opened.unexpected()
    finally:
        if folder := os.environ.get("STUDIO_SCREENSHOTS"):  # to look at, while working on the page
            for number, page in enumerate(context.pages):
                test = os.environ.get("PYTEST_CURRENT_TEST", "page").rpartition("::")[2].partition(" ")[0]
                page.screenshot(path=f"{folder}/{test}-{number}.png", full_page=True)
        context.close()
