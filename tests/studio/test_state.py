"""The dialog "State": what is working and what is missing, the API key, language and colors."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect

from tests.processes import Atelier, content, free_port, process, wait_for
from tests.studio.seeding import drawing, remember_drawing
from tests.studio.studio import Studio, studio


def opened(page: Page) -> Locator:
    """The dialog, opened by the button of the header."""
    page.get_by_role("button", name="State").click()
    return page.get_by_role("dialog", name="State")


def test_it_says_what_is_loaded(window: Studio) -> None:
    page = window.open()
    dialog = opened(page)
    expect(dialog).to_contain_text("Everything is ready: pictures are drawn, faces are restored.")
    for words in ("draws", "refines", "enlarges", "finds faces", "restores faces", "recognizes people"):
        expect(dialog.get_by_role("cell", name=words, exact=True).first).to_be_visible()
    expect(dialog).to_contain_text("on the processor")
    expect(dialog).to_contain_text("0.2.0")
    expect(dialog).to_contain_text("0 of at most 8 waiting")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="State")).to_be_focused()


def test_it_says_what_is_missing(browser: Browser, atelier: Atelier, tmp_path: Path) -> None:
    port = free_port()
    away = f"127.0.0.1:{free_port()}"
    settings = {"PORT": port, "GENERATOR": atelier.generator, "RESTORER": away}
    url = f"http://127.0.0.1:{port}"
    with process("gateway", tmp_path / "gateway.log", **settings):
        wait_for(lambda: content(f"{url}/livez") != b"")
        with studio(browser, url) as window:
            page = window.open()
            expect(page.get_by_role("button", name="State")).to_contain_text("without face restoration")
            dialog = opened(page)
            expect(dialog).to_contain_text("The restorer does not answer: faces stay as they are.")
            expect(dialog).not_to_contain_text("The generator does not answer")


def test_jobs_that_cannot_be_made(window: Studio) -> None:
    def without_jobs(route: Route) -> None:
        said = route.fetch().json()
        route.fulfill(json={**said, "status": "degraded", "jobs_available": False})

    window.context.route("**/health", without_jobs)
    page = window.open()
    expect(page.get_by_role("button", name="State")).to_contain_text("Not ready")
    expect(opened(page)).to_contain_text("the database of jobs, or the store of their files, cannot be used")


def test_a_gateway_that_is_away_and_back(window: Studio) -> None:
    window.expected.append("ERR_INTERNET_DISCONNECTED")
    page = window.open()
    button = page.get_by_role("button", name="State")
    expect(button).to_contain_text("Ready")
    window.context.set_offline(True)
    expect(button).to_contain_text("Not reachable")
    window.context.set_offline(False)
    expect(button).to_contain_text("Ready")


def test_the_key_that_a_gateway_wants(window: Studio, atelier: Atelier) -> None:
    def guard(route: Route, request: Request) -> None:
        if request.headers.get("authorization") == "Bearer open sesame":
            route.continue_()
            return
        body = {"error": {"code": "unauthorized", "message": "A valid API key is needed."}}
        route.fulfill(status=401, json=body)

    window.expected.append("status of 401")
    window.context.route("**/v1/**", guard)
    page = window.open("#history")
    remember_drawing(page, drawing(atelier.url))
    expect(page.get_by_role("button", name="State")).to_contain_text("Key needed")
    page.get_by_role("button", name="Enter the key").click()
    dialog = page.get_by_role("dialog", name="State")
    field = dialog.get_by_label("API key")
    expect(field).to_have_attribute("type", "password")
    dialog.get_by_role("button", name="Show").click()
    expect(field).to_have_attribute("type", "text")
    field.fill("a guess")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("did not accept")
    field.fill("\N{LEFT DOUBLE QUOTATION MARK}open sesame\N{RIGHT DOUBLE QUOTATION MARK}")
    field.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("signs that cannot be sent")
    field.fill("open sesame")
    field.press("Enter")
    expect(dialog.get_by_text("The key is saved.")).to_be_visible()
    expect(dialog.get_by_role("alert")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Enter the key")).to_have_count(0)
    expect(page.get_by_role("tabpanel", name="History").get_by_role("listitem")).to_contain_text("Done")
    page.reload()
    expect(page.get_by_role("tabpanel", name="History").get_by_role("listitem")).to_contain_text("Done")


def test_another_language(window: Studio) -> None:
    other = window.open("#history")
    page = window.open("#history")
    dialog = opened(page)
    dialog.get_by_role("radio", name="Deutsch").check()
    expect(page.get_by_role("dialog", name="Zustand")).to_be_visible()
    expect(other.get_by_role("tab", name="Verlauf")).to_be_visible()
    page.reload()
    expect(page.get_by_role("tab", name="Verlauf")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "de")


@pytest.mark.parametrize(("name", "scheme"), [("Dark", "dark"), ("Light", "light")])
def test_other_colors(window: Studio, name: str, scheme: str) -> None:
    page = window.open()
    opened(page).get_by_role("radio", name=name).check()
    page.reload()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == scheme
    opened(page).get_by_role("radio", name="As the system").check()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light dark"


def test_site_data_that_is_blocked(window: Studio) -> None:
    window.context.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"]) {
          const get = () => { throw new DOMException("blocked", "SecurityError"); };
          Object.defineProperty(window, name, { get });
        }"""
    )
    page = window.open()
    expect(page.get_by_text("This browser keeps nothing for this page")).to_be_visible()
    opened(page).get_by_role("radio", name="Dark").check()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


def test_a_dialog_stays_where_a_selection_ends_outside(window: Studio) -> None:
    page = window.open()
    dialog = opened(page)
    box = dialog.get_by_label("API key").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(5, 5)
    page.mouse.up()
    expect(dialog).to_be_visible()
    page.mouse.click(5, 5)
    expect(dialog).to_be_hidden()
