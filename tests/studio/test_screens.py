"""Every screen: for people who see little, use no mouse, or hold a phone; below a path, in both languages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.processes import Atelier, content, free_port, process, wait_for
from tests.studio.axe_check import violations
from tests.studio.seeding import PROMPT, drawing, output, photograph, remember_drawing, remember_photograph
from tests.studio.studio import Studio, studio

PHONE = 360
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
_WIDER = """() => {
  const wide = (element) => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && (box.left < -0.5 || box.right > innerWidth + 0.5);
  };
  const scrolls = (element) => {
    for (let above = element.parentElement; above; above = above.parentElement) {
      const { overflowX } = getComputedStyle(above);
      if (["auto", "scroll"].includes(overflowX) && above.tagName !== "DIALOG") return true;
    }
    return false;
  };
  const seen = [...document.querySelectorAll("button, a, input, select, textarea, summary")];
  const out = seen.filter((element) => element.checkVisibility() && wide(element) && !scrolls(element));
  return [
    ...(document.documentElement.scrollWidth > innerWidth ? ["the page scrolls sideways"] : []),
    ...out.map((element) => element.outerHTML.slice(0, 120)),
  ];
}"""


@pytest.fixture(scope="module")
def made(atelier: Atelier) -> dict[str, Any]:
    """A drawing, a photograph and its restoration."""
    drawn = drawing(atelier.url)
    found = photograph(atelier.url, output(atelier.url, drawn))
    body = {"type": "restore", "input": {"image": {"job": found["id"], "output": "input_image"}}}
    restored = httpx.post(
        f"{atelier.url}/v1/jobs", json=body, headers={"Prefer": "wait=60"}, timeout=90
    ).json()
    return {"drawn": drawn, "found": found, "restored": restored}


def fill(page: Page, made: dict[str, Any]) -> None:
    """Have something on each tab."""
    remember_drawing(page, made["drawn"])
    remember_photograph(page, made["found"], restoration=made["restored"]["id"])


def screens(window: Studio, made: dict[str, Any]) -> Iterator[tuple[str, Page]]:
    """Each screen, empty and filled, one after another on one page."""
    page = window.open("#create")
    for tab in ("Create", "Restore", "History"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tabpanel", name=tab)).to_be_visible()
        yield f"{tab}, empty", page
    fill(page, made)
    history = page.get_by_role("tabpanel", name="History")
    expect(history.get_by_text("Done")).to_be_visible()
    expect(history.locator("img")).to_have_count(2)
    yield "History, filled", page
    for tab, job in (("create", made["drawn"]), ("restore", made["found"])):
        page.goto(f"{window.url}/#{tab}/{job['id']}")
        expect(page.get_by_role("tabpanel", name=tab.title())).to_be_visible()
        page.wait_for_load_state("networkidle")
        yield f"{tab.title()}, filled", page
    page.get_by_role("button", name="State").click()
    expect(page.get_by_role("dialog")).to_contain_text("0.2.0")
    yield "State", page


@SCHEMES
def test_axe_finds_nothing(browser: Browser, atelier: Atelier, made: dict[str, Any], scheme: str) -> None:
    found = {}
    with studio(browser, atelier.url, color_scheme=scheme) as window:
        for name, page in screens(window, made):
            if wrong := violations(page):
                found[name] = wrong
    assert found == {}


def test_a_phone_needs_no_scrolling_sideways(
    browser: Browser, atelier: Atelier, made: dict[str, Any]
) -> None:
    found = {}
    with studio(browser, atelier.url, width=PHONE, height=740, has_touch=True, is_mobile=True) as window:
        for name, page in screens(window, made):
            if wider := page.evaluate(_WIDER):
                found[name] = wider
            if name == "State":
                page.get_by_role("radio", name="Deutsch").check()  # whose words are longer
                if wider := page.evaluate(_WIDER):
                    found["Zustand"] = wider
                page.keyboard.press("Escape")
                for tab in ("Erstellen", "Restaurieren", "Verlauf"):
                    page.get_by_role("tab", name=tab).click()
                    if wider := page.evaluate(_WIDER):
                        found[tab] = wider
    assert found == {}


def test_the_language_is_the_browsers(browser: Browser, atelier: Atelier) -> None:
    with studio(browser, atelier.url, locale="de-AT") as window:
        page = window.open()
        expect(page.get_by_role("tab", name="Verlauf")).to_be_visible()
        expect(page).to_have_title("Erstellen - Atelier")
        assert violations(page) == []


def test_keys_lead_everywhere(window: Studio) -> None:
    page = window.open("#history")
    expect(page.get_by_role("tab", name="History")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tab", name="History")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Restore")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Restore")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Create")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="State")).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="State")
    expect(dialog).to_be_visible()
    for _ in range(30):  # the focus goes round inside, or to the browser's own buttons
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="State")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Create a picture")).to_be_focused()


def test_back_and_forward(window: Studio) -> None:
    page = window.open("#create")
    for tab in ("Restore", "History"):
        page.get_by_role("tab", name=tab).click()
    page.go_back()
    expect(page.get_by_role("tabpanel", name="Restore")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("tabpanel", name="Create")).to_be_visible()
    page.go_forward()
    expect(page.get_by_role("tabpanel", name="Restore")).to_be_visible()


def test_below_a_path(browser: Browser, atelier: Atelier, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/images"
    services = {"GENERATOR": atelier.generator, "RESTORER": atelier.restorer}
    with process("gateway", tmp_path / "gateway.log", PORT=port, ROOT_PATH="/images", **services):
        wait_for(lambda: content(f"{url}/livez") != b"")
        with studio(browser, url) as window:
            page = window.open("#history")
            remember_drawing(page, drawing(url))
            panel = page.get_by_role("tabpanel", name="History")
            expect(panel.locator("img")).to_be_visible()
            panel.get_by_role("link", name=f"Open: {PROMPT}").click()
            assert page.url.startswith(f"{url}/#create/job_")
            page.get_by_role("button", name="State").click()
            for name in ("API documentation", "OpenAPI document"):
                link = page.get_by_role("link", name=name).evaluate("link => link.href")
                assert httpx.get(link).status_code == 200 and link.startswith(f"{url}/")
