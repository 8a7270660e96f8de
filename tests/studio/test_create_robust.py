"""The tab "Create" where people hurry, leave, mistype or come back: nothing is lost, nothing done twice."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from playwright.sync_api import Page, Route, expect

from tests.processes import Atelier
from tests.studio.creating import PROMPT, download, drop, fill, generate, unfold
from tests.studio.seeding import photograph, plain_picture
from tests.studio.studio import Studio


def _count_requests(page: Page) -> list[str]:
    """Return a list that grows with every job that is asked for."""
    asked: list[str] = []

    def note(method: str, url: str) -> None:
        if method == "POST" and url.endswith("/v1/jobs"):
            asked.append(url)

    page.on("request", lambda request: note(request.method, request.url))
    return asked


def test_a_request_outlives_a_reload_before_its_answer(window: Studio) -> None:
    page = window.open()
    fill(page)
    window.context.route("**/v1/jobs", lambda route: None)  # sent, and never answered
    with page.expect_request("**/v1/jobs"):
        generate(page)
    window.context.unroute("**/v1/jobs")
    page.reload()
    assert download(page).name.endswith("-42.png")
    page.reload()
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_visible()
    expect(page.get_by_role("navigation", name="Last drawn")).to_have_count(0)  # there is one


def test_a_key_that_is_held_down_asks_once(window: Studio) -> None:
    page = window.open()
    fill(page)
    asked = _count_requests(page)
    page.get_by_role("button", name="Generate", exact=True).focus()
    for _ in range(5):
        page.keyboard.down("Enter")
    page.wait_for_url("**/#create/job_*")
    for _ in range(5):
        page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_visible()
    assert len(asked) == 1


def test_what_leaves_the_page_is_at_the_fidelity_that_is_seen(window: Studio) -> None:
    page = window.open()
    fill(page)
    generate(page)
    at_06 = download(page)
    slider = page.get_by_role("slider", name="Fidelity", exact=True)
    slider.fill("0.2")
    at_02 = download(page)
    assert at_02.name.endswith("-42-fidelity-0.20.png")
    assert not np.array_equal(at_02.pixels, at_06.pixels)

    window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy recipe").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    request = json.loads(page.evaluate("navigator.clipboard.readText()"))["request"]
    assert (request["prompt"], request["seed"], request["face_restoration_weight"]) == (PROMPT, 42, 0.2)

    page.reload()  # it stays as it was left
    assert download(page).name == at_02.name
    drop(page, "restored.png", at_02.data)
    page.get_by_role("dialog").get_by_role("button", name="Draw it again").click()
    drawn_before = page.get_by_role("navigation", name="Last drawn").get_by_role("button")
    expect(drawn_before).to_have_count(2)
    assert np.array_equal(download(page).pixels, at_02.pixels)

    slider.fill("0.9")  # of another picture and the next: looking at this one changes neither
    drawn_before.last.click()
    expect(page.get_by_text("For the next picture: the one in view has 0.20.")).to_be_visible()
    expect(slider).to_have_value("0.9")


def test_an_error_far_away_is_brought_into_view(window: Studio) -> None:
    window.expected.append("422")
    page = window.open()
    page.set_viewport_size({"width": 360, "height": 640})
    fill(page, side=100)
    page.get_by_text("More", exact=True).click()
    generate(page)
    width = page.get_by_role("textbox", name="Width")
    expect(width).to_be_focused()
    expect(width).to_be_in_viewport()


def test_a_field_with_the_focus_is_not_covered(window: Studio) -> None:
    page = window.open()
    page.set_viewport_size({"width": 1024, "height": 768})
    unfold(page)
    page.get_by_role("textbox", name="Prompt", exact=True).focus()
    seen: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        said = page.evaluate(
            """() => {
                const field = document.activeElement, box = field.getBoundingClientRect();
                if (!field.closest(".more-options")) return null;
                const top = document.elementFromPoint(box.x + box.width / 2, box.bottom - 2);
                return [field.id, top?.closest(".creation-form-ask") !== null];
            }"""
        )
        if said:
            assert said[1] is False, f"{said[0]} is under the button"
            seen.append(said[0])
    assert "create-steps" in seen
    assert "create-schedule" in seen


def test_whoever_goes_elsewhere_stays_there(window: Studio) -> None:
    page = window.open()
    fill(page, side=512, steps=150)
    waiting: list[Route] = []
    window.context.route("**/v1/jobs", lambda route: waiting.append(route))
    with page.expect_request("**/v1/jobs"):
        generate(page)
    page.get_by_role("tab", name="History").click()
    while not waiting:  # the browser waits for the answer as well
        page.wait_for_timeout(20)
    waiting[0].continue_()
    expect(page.get_by_role("log")).to_contain_text("It is being drawn.")
    expect(page.get_by_role("tab", name="History")).to_have_attribute("aria-selected", "true")

    page.get_by_role("link", name=f"Open: {PROMPT}").click()
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_enabled()
    prompt = page.get_by_role("textbox", name="Prompt", exact=True)
    prompt.focus()
    page.keyboard.press("Escape")  # it ends what is typed there, and no drawing
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_visible()
    prompt.blur()
    page.keyboard.press("Escape")
    expect(page.get_by_role("tabpanel").get_by_text("Canceled.")).to_be_visible()


def test_options_are_reset_without_the_prompt_and_can_be_had_back(window: Studio) -> None:
    page = window.open()
    fill(page)
    width = page.get_by_role("textbox", name="Width")
    page.get_by_role("button", name="Reset all but the prompt").click()
    expect(width).to_have_value("1024")
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_have_value(PROMPT)
    page.get_by_role("button", name="Undo").click()
    expect(width).to_have_value("256")


def test_a_recipe_that_cannot_be_followed_says_so_and_what_can_be_done(window: Studio) -> None:
    window.expected.append("422")
    asked: list[bytes] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.post_data_buffer or b"")
        fields = [{"field": "input.recipe_of", "message": "was drawn with sdxl; demo is loaded"}]
        error = {"code": "invalid_request", "message": fields[0]["message"], "fields": fields}
        route.fulfill(status=422, json={"success": False, "error": error})

    def tell(route: Route, **more: Any) -> None:
        said = {"kind": "drawing", "request": {"prompt": "a fox"}, "seed": 3, "model_set": {"name": "sdxl"}}
        body = {"success": True, "format": "png", "items": {}, "has_credentials": False, "omitted": []}
        route.fulfill(json=body | {"recipe": said | more})

    window.context.route("**/v1/jobs", refuse)
    window.context.route("**/v1/inspect", lambda route: tell(route))
    page = window.open()
    drop(page, "fox.png", plain_picture())
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Draw it again").click()
    expect(dialog.get_by_text("demo is loaded")).to_be_visible()
    dialog.get_by_role("button", name="Draw it all the same").click()
    expect(dialog.get_by_text("demo is loaded")).to_be_visible()
    assert [b"any_model_set" in each for each in asked] == [False, True]
    page.keyboard.press("Escape")

    window.context.route("**/v1/inspect", lambda route: tell(route, started_from={"image_sha256": "ab"}))
    drop(page, "fox.png", plain_picture())
    expect(dialog.get_by_text("It began from an image")).to_be_visible()
    expect(dialog.get_by_role("button", name="Draw it again")).to_have_count(0)


def test_the_address_of_a_photograph_is_no_drawing(window: Studio, atelier: Atelier) -> None:
    found = photograph(atelier.url, plain_picture())
    page = window.open(f"#create/{found['id']}")
    expect(page.get_by_text("Under this address is no drawing.")).to_be_visible()
