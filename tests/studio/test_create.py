"""The page's tab "Create" in real Chromium, on three real processes with the demo models."""

from __future__ import annotations

import json
import re
from io import BytesIO

import numpy as np
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.processes import wait_for
from tests.studio.creating import PROMPT, download, drop, fill, generate, preview, unfold
from tests.studio.studio import Studio


def _fidelity(page: Page, value: str) -> None:
    """Move the slider, and wait for the picture."""
    page.get_by_role("slider", name="Fidelity", exact=True).fill(value)
    page.get_by_text("Restoring its faces again").wait_for()
    page.get_by_text("Also changes the faces of the picture in view.").wait_for()


def _box_of_face(page: Page) -> tuple[float, float, float, float]:
    """Hover the face; return its frame in px of the picture, which is shown pixel by pixel."""
    face = page.get_by_role("img", name="Face 1: restored")
    face.hover()
    expect(face).to_have_css("opacity", "1")
    frame, stage = face.bounding_box(), page.locator(".stage-picture").bounding_box()
    assert frame is not None
    assert stage is not None
    x, y = frame["x"] - stage["x"], frame["y"] - stage["y"]
    return x, y, x + frame["width"], y + frame["height"]


def test_a_picture_is_previewed_and_canceled(window: Studio) -> None:
    page = window.open()
    fill(page, side=512, steps=150)
    generate(page)
    preview(page).wait_for()
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("tabpanel").get_by_text("Canceled.")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_count(0)

    fill(page, side=256, steps=150)  # the form can still be used
    generate(page)
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_enabled()
    page.keyboard.press("Escape")
    expect(page.get_by_role("tabpanel").get_by_text("Canceled.")).to_be_visible()


def test_escape_cancels_what_has_just_appeared(window: Studio) -> None:
    page = window.open()
    fill(page, side=512, steps=150)
    page.evaluate(
        """() => new MutationObserver((_, observer) => {
            const buttons = [...document.querySelectorAll("button:enabled")];
            if (!buttons.some((button) => button.textContent === "Cancel")) return;
            observer.disconnect();
            document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
        }).observe(document.body, { subtree: true, childList: true, attributes: true })"""
    )
    generate(page)
    expect(page.get_by_role("tabpanel").get_by_text("Canceled.")).to_be_visible()


def test_a_picture_arrives_after_a_reload_in_mid_job(window: Studio) -> None:
    page = window.open()
    fill(page, steps=40)
    generate(page)
    preview(page).wait_for()
    page.reload()
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_have_value(PROMPT)
    file = download(page)
    assert file.name == "portrait-of-a-woman-with-red-hair-studio-light-42.png"
    assert file.pixels.shape == (256, 256, 3)


def test_fidelity_changes_faces_and_nothing_else(window: Studio) -> None:
    page = window.open()
    fill(page)
    generate(page)
    at_06 = download(page).pixels
    x1, y1, x2, y2 = _box_of_face(page)

    _fidelity(page, "0.1")
    changed = np.abs(download(page).pixels - at_06).max(axis=2) > 0
    ys, xs = np.nonzero(changed)
    inside = changed[int(y1) : int(y2), int(x1) : int(x2)]
    assert inside.mean() > 0.5
    margin = 0.35 * max(x2 - x1, y2 - y1)  # the network sees more of the head than the detector's box
    assert xs.min() >= x1 - margin
    assert xs.max() <= x2 + margin
    assert ys.min() >= y1 - margin
    assert ys.max() <= y2 + margin

    page.get_by_role("slider", name="Fidelity", exact=True).fill("0.6")
    wait_for(lambda: np.array_equal(download(page).pixels, at_06), 30)
    page.get_by_role("button", name="Before/after").click()
    expect(page.get_by_role("slider", name="Before and after")).to_be_visible()


def test_a_picture_without_restoration_says_why_the_fidelity_does_nothing(window: Studio) -> None:
    page = window.open()
    fill(page)
    restore = page.get_by_role("checkbox", name="Restore faces", exact=True)
    restore.uncheck()
    expect(page.get_by_role("slider", name="Fidelity", exact=True)).to_have_count(0)
    generate(page)
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_visible()
    restore.check()
    expect(page.get_by_text("the one in view was made without face restoration")).to_be_visible()
    expect(page.get_by_role("button", name="Before/after")).to_have_count(0)
    first = download(page)
    page.get_by_role("button", name="Vary").click()
    expect(page.get_by_role("navigation", name="Last drawn").get_by_role("button")).to_have_count(2)
    varied = download(page)
    assert first.name.endswith("-42.png")
    assert not varied.name.endswith("-42.png")


def test_one_of_several_pictures_is_chosen(window: Studio) -> None:
    page = window.open()
    fill(page)
    page.get_by_role("button", name="More pictures").click()
    page.get_by_role("button", name="Generate", exact=True).dblclick()
    first = download(page)
    expect(page.get_by_role("navigation", name="Last drawn")).to_have_count(0)  # it was asked for once
    page.get_by_role("button", name="Picture 2", exact=True).click()
    expect(page.get_by_text("256 × 256 px · seed 43")).to_be_visible()
    second = download(page)
    assert first.name.endswith("-42.png")
    assert second.name.endswith("-43.png")
    assert not np.array_equal(first.pixels, second.pixels)
    page.get_by_role("button", name="Same seed").click()
    expect(page.get_by_role("textbox", name="Seed", exact=True)).to_have_value("43")


def test_a_dropped_picture_is_drawn_again_to_the_pixel(window: Studio) -> None:
    page = window.open()
    fill(page, steps=3)
    generate(page)
    first = download(page)
    window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy recipe").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    recipe = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert recipe["request"]["prompt"] == PROMPT
    fill(page, prompt="something else", side=512, seed=None)
    drop(page, "portrait.png", first.data)
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text(PROMPT)).to_be_visible()
    dialog.get_by_role("button", name="Draw it again").click()
    expect(page.get_by_role("navigation", name="Last drawn").get_by_role("button")).to_have_count(2)
    again = download(page)
    assert np.array_equal(again.pixels, first.pixels)

    drop(page, "portrait.png", first.data)
    dialog.get_by_role("button", name="Use it").click()
    prompt = page.get_by_role("textbox", name="Prompt", exact=True)
    expect(prompt).to_have_value(PROMPT)
    page.get_by_role("button", name="Undo").click()
    expect(prompt).to_have_value("something else")
    page.get_by_text(PROMPT, exact=True).click()
    page.get_by_role("button", name="Use these settings").click()
    expect(prompt).to_have_value(PROMPT)
    expect(page.get_by_role("textbox", name="Seed", exact=True)).to_have_value("42")
    expect(page.get_by_role("textbox", name="Width")).to_have_value("256")

    newest = page.url
    page.get_by_role("group", name=f"Picture: {PROMPT}").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: url != newest)
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(newest)


def test_a_picture_without_a_recipe_is_offered_to_restore(window: Studio) -> None:
    page = window.open()
    plain = BytesIO()
    Image.new("RGB", (64, 64), "gray").save(plain, "PNG")
    window.expected.append("422")
    drop(page, "broken.png", b"no picture")
    expect(
        page.get_by_role("dialog").get_by_text("broken.png is no PNG, JPEG or WebP picture.")
    ).to_be_visible()
    page.keyboard.press("Escape")
    drop(page, "plain.png", plain.getvalue())
    page.get_by_role("dialog").get_by_role("button", name="Open in Restore").click()
    expect(page.get_by_role("tab", name="Restore", exact=True)).to_have_attribute("aria-selected", "true")


def test_by_keyboard_from_the_page_to_the_file(window: Studio) -> None:
    page = window.open()
    unfold(page)
    page.get_by_role("textbox", name="Steps").fill("2")
    page.get_by_role("textbox", name="Width").fill("256")
    page.get_by_role("textbox", name="Height").fill("256")
    page.reload()  # the form stays; the focus is at the beginning

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("n => document.activeElement.matches(n)", name):
                return
        raise AssertionError(f"no {name} is reached by Tab")

    tab_to("#create-prompt")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_visible()
    tab_to(".stage-picture")
    tab_to(".picture-tools button")  # before/after
    page.keyboard.press("Tab")  # vary
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_focused()
    with page.expect_download() as handed_out:
        page.keyboard.press("Enter")
    assert handed_out.value.suggested_filename.startswith("portrait-of-a-woman")


def test_what_is_refused_is_told_at_its_field(window: Studio) -> None:
    page = window.open()
    window.expected.append("422")
    generate(page)
    prompt = page.get_by_role("textbox", name="Prompt", exact=True)
    expect(prompt).to_have_accessible_description(re.compile("^Say first what the picture is to show"))
    fill(page, side=100)
    page.get_by_text("More", exact=True).click()
    generate(page)
    width = page.get_by_role("textbox", name="Width")
    expect(width).to_have_accessible_description(
        "must be an integer from 256 to 2048 and a multiple of 8, not 100"
    )
    expect(width).to_have_attribute("aria-invalid", "true")
    width.fill("256")
    expect(width).to_have_attribute("aria-invalid", "false")


def test_an_expired_picture_is_drawn_again_with_its_seed(window: Studio) -> None:
    page = window.open()
    fill(page, seed=None)
    generate(page)
    first = download(page)
    job = page.url.rpartition("/")[2]
    gone = {"success": False, "error": {"code": "gone", "message": "it has expired"}}
    window.expected.append("410")
    window.context.route(f"**/v1/jobs/{job}**", lambda route: route.fulfill(status=410, json=gone))
    page.reload()
    expect(page.get_by_text("It has expired, and was deleted.")).to_be_visible()
    page.get_by_role("button", name="Draw it again").click()
    again = download(page)
    assert again.name == first.name
    assert np.array_equal(again.pixels, first.pixels)


def test_nothing_is_lost_while_the_gateway_is_away(window: Studio) -> None:
    page = window.open()
    window.expected.append("ERR_FAILED")
    window.context.route("**/v1/jobs", lambda route: route.abort())
    fill(page)
    generate(page)
    expect(page.get_by_role("alert")).to_have_text("The gateway does not answer. Is it running?")
    window.context.unroute("**/v1/jobs")
    generate(page)
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_key_is_asked_for_where_it_is_needed(window: Studio) -> None:
    def behind_a_key(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer open sesame":
            route.fallback()
        else:
            error = {"code": "unauthorized", "message": "an API key is needed"}
            route.fulfill(status=401, json={"success": False, "error": error})

    window.expected.append("401")
    window.context.route("**/v1/**", behind_a_key)
    page = window.open()
    fill(page)
    generate(page)
    enter = page.get_by_role("button", name="Enter the key")
    expect(enter).to_be_focused()
    expect(page.get_by_role("alert")).to_have_count(0)  # it is said in one place
    enter.click()
    page.get_by_label("API key").fill("open sesame")
    page.get_by_role("button", name="Save", exact=True).click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_visible()
