"""The tab "History": what was asked for, followed, canceled, drawn again and deleted."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Locator, Page, Request, Response, expect

from tests.processes import Atelier, wait_for
from tests.studio.seeding import (
    PROMPT,
    drawing,
    made_of,
    output,
    photograph,
    plain_picture,
    remember_drawing,
    remember_photograph,
)
from tests.studio.studio import Studio

GONE = ("status of 404", "status of 410")
"""What Chromium writes into the console where a job is asked for that has expired."""


@pytest.fixture
def window(window: Studio) -> Studio:
    """A window in which a job or its small picture may be on its way when it is deleted."""
    window.expected += GONE
    return window


def cards(page: Page) -> Locator:
    return page.get_by_role("tabpanel", name="History").get_by_role("listitem")


def status(url: str, job: str) -> str:
    response = httpx.get(f"{url}/v1/jobs/{job}")
    return str(response.json()["status"]) if response.status_code == 200 else "gone"


def unknown(number: int) -> str:
    return f"job_{number:044x}"


def test_an_empty_history_leads_to_where_it_begins(window: Studio) -> None:
    page = window.open("#history")
    page.get_by_role("button", name="Restore photographs").click()
    expect(page.get_by_role("tab", name="Restore")).to_have_attribute("aria-selected", "true")


def test_what_was_asked_for_is_there_after_a_reload(window: Studio, atelier: Atelier) -> None:
    job = drawing(atelier.url)
    page = window.open("#history")
    remember_drawing(page, job)
    remember_drawing(page, drawing(atelier.url, seed=7), days_ago=1, input={"prompt": "an old man"})
    expect(page.get_by_role("heading", name="Today")).to_be_visible()
    expect(page.get_by_role("heading", name="Yesterday")).to_be_visible()
    page.reload()
    expect(cards(page)).to_have_count(2)
    first = cards(page).first
    expect(first).to_contain_text(PROMPT)
    expect(first).to_contain_text(re.compile(r"Done.*deleted in (1 hour|\d+ minutes)", re.DOTALL))
    image = first.locator("img")
    expect(image).to_be_visible()
    wait_for(lambda: image.evaluate("image => image.naturalWidth") == 256)
    first.get_by_role("link", name=f"Open: {PROMPT}").click()
    expect(page).to_have_url(re.compile(f"#create/{job['id']}$"))


def test_a_running_job_is_followed_and_canceled(window: Studio, atelier: Atelier) -> None:
    job = drawing(atelier.url, wait=0, width=512, height=512, num_inference_steps=150)
    page = window.open("#history")
    remember_drawing(page, job)
    card = cards(page).first
    expect(card).to_contain_text("%")
    card.get_by_role("button", name="Cancel").click()
    expect(card).to_contain_text("Canceled")
    assert status(atelier.url, job["id"]) == "cancelled"
    expect(card.get_by_role("button", name="Cancel")).to_have_count(0)


def test_two_tabs_show_the_same_and_deleting_deletes(window: Studio, atelier: Atelier) -> None:
    job = drawing(atelier.url)
    one, other = window.open("#history"), window.open("#history")
    remember_drawing(one, job)
    for page in (one, other):
        expect(cards(page)).to_have_count(1)
    cards(one).get_by_role("button", name="Delete now").click()
    for page in (one, other):
        expect(page.get_by_role("heading", name="Nothing hangs here yet")).to_be_visible()
    assert status(atelier.url, job["id"]) == "gone"


def test_a_photograph_goes_with_all_that_was_made_of_it(window: Studio, atelier: Atelier) -> None:
    found = photograph(atelier.url, output(atelier.url, drawing(atelier.url)))
    first, restored = (made_of(atelier.url, "restore", found, fidelity=each) for each in (0.1, 0.9))
    strip = made_of(atelier.url, "compare", found, fidelities=[0, 1], return_crops=True)
    page = window.open("#history")
    remember_photograph(page, found)
    expect(cards(page)).to_contain_text("1 face found, not restored yet")
    remember_photograph(page, found, restoration=restored, strips={"0": strip}, made=[first, restored])
    expect(cards(page)).to_contain_text("1 of 1 face restored")
    expect(cards(page).locator("img")).to_be_visible()
    cards(page).get_by_role("button", name="Delete now").click()
    expect(cards(page)).to_have_count(0)
    assert {status(atelier.url, job) for job in (found["id"], first, restored, strip)} == {"gone"}


def test_a_drawing_goes_with_its_other_fidelities(window: Studio, atelier: Atelier) -> None:
    answers: list[Response] = []

    def note(response: Response) -> None:
        if response.request.method == "POST" and urlsplit(response.url).path == "/v1/jobs":
            answers.append(response)

    def is_got_ahead() -> bool:
        page.title()  # what the page does is told during calls
        return len(answers) > 1

    page = window.open("#history")
    remember_drawing(page, drawing(atelier.url))
    page.on("response", note)
    cards(page).get_by_role("link").click()
    page.get_by_role("slider", name="Fidelity", exact=True).fill("0.1")
    wait_for(is_got_ahead)
    page.get_by_role("tab", name="History").click()
    cards(page).get_by_role("button", name="Delete now").click()
    expect(cards(page)).to_have_count(0)
    jobs = [answer.json()["id"] for answer in answers]
    wait_for(lambda: {status(atelier.url, job) for job in jobs} == {"gone"})


def test_what_another_window_deletes_is_gone_here(window: Studio, atelier: Atelier) -> None:
    job = drawing(atelier.url)
    one = window.open("#history")
    remember_drawing(one, job)
    other = window.open(f"#create/{job['id']}")
    expect(other.get_by_role("button", name="Download", exact=True)).to_be_visible()
    cards(one).get_by_role("button", name="Delete now").click()
    expect(other.get_by_text("It has expired, and was deleted.")).to_be_visible()
    expect(other.get_by_role("button", name="Download", exact=True)).to_have_count(0)
    expect(other.get_by_text("made without face restoration")).to_have_count(0)


def test_a_photograph_that_cannot_be_deleted_stays(window: Studio, atelier: Atelier) -> None:
    window.expected.append("ERR_INTERNET_DISCONNECTED")
    found = photograph(atelier.url, plain_picture())
    page = window.open("#restore")
    remember_photograph(page, found)
    remove = page.get_by_role("button", name="Remove grandmother.png")
    expect(remove).to_be_visible()
    window.context.set_offline(True)
    remove.click()
    expect(page.get_by_role("log")).to_contain_text("grandmother.png was not deleted, and stays here.")
    expect(remove).to_be_visible()
    window.context.set_offline(False)
    remove.click()
    expect(remove).to_have_count(0)
    assert status(atelier.url, found["id"]) == "gone"


def test_a_picture_that_could_not_be_fetched_is_fetched_again(window: Studio, atelier: Atelier) -> None:
    window.expected.append("status of 500")
    broken = {"success": False, "error": {"code": "internal", "message": "it broke"}}
    window.context.route("**/outputs/image", lambda route: route.fulfill(status=500, json=broken))
    job = drawing(atelier.url)
    page = window.open("#history")
    remember_drawing(page, job)
    cards(page).get_by_role("link").click()
    expect(page.get_by_text("it broke")).to_be_visible()
    window.context.unroute("**/outputs/image")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("img.finished")).to_be_visible()
    expect(page.get_by_text("it broke")).to_have_count(0)


def test_the_focus_stays_where_something_was(window: Studio, atelier: Atelier) -> None:
    page = window.open("#history")
    for seed in (1, 2):
        remember_drawing(page, drawing(atelier.url, seed=seed), input={"prompt": f"picture {seed}"})
    expect(cards(page)).to_have_count(2)
    cards(page).first.get_by_role("button", name="Delete now").press("Enter")
    expect(cards(page)).to_have_count(1)
    expect(page.get_by_role("link", name="Open: picture 1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("tabpanel", name="Create")).to_be_focused()


def test_what_has_expired_says_so_until_it_is_removed(window: Studio) -> None:
    page = window.open("#history")
    remember_drawing(page, {"id": unknown(1)}, days_ago=2)
    remember_drawing(page, {"id": unknown(2)}, days_ago=8)
    page.reload()
    expect(cards(page)).to_have_count(1)  # nothing is kept for longer than a week
    expect(cards(page)).to_contain_text("Expired")
    expect(cards(page).get_by_role("link")).to_have_count(0)
    page.reload()
    cards(page).get_by_role("button", name="Remove").click()
    expect(cards(page)).to_have_count(0)


def test_again_draws_what_was_asked_for(window: Studio, atelier: Atelier) -> None:
    page = window.open("#history")
    remember_drawing(page, drawing(atelier.url))
    with page.expect_response(lambda response: response.request.method == "POST") as submitted:
        cards(page).get_by_role("button", name="Again").click()
    asked = submitted.value.request.post_data_json
    assert asked is not None and asked["input"]["prompt"] == PROMPT and asked["input"]["width"] == 256
    again = submitted.value.json()["id"]
    expect(page).to_have_url(re.compile(f"#create/{again}$"))
    page.get_by_role("tab", name="History").click()
    expect(cards(page)).to_have_count(2)


def test_everything_is_deleted_after_a_question(window: Studio, atelier: Atelier) -> None:
    jobs = [drawing(atelier.url, seed=seed) for seed in (1, 2)]
    page = window.open("#history")
    for job in jobs:
        remember_drawing(page, job)
    expect(cards(page)).to_have_count(2)
    everything = page.get_by_role("button", name="Delete everything")
    everything.click()
    page.get_by_role("dialog").get_by_role("button", name="Keep them").click()
    expect(cards(page)).to_have_count(2)
    everything.click()
    page.get_by_role("dialog").get_by_role("button", name="Delete everything").click()
    expect(cards(page)).to_have_count(0)
    assert {status(atelier.url, job["id"]) for job in jobs} == {"gone"}


def test_only_cards_in_view_are_asked_for(window: Studio) -> None:
    asked: set[str] = set()

    def note(request: Request) -> None:
        path = urlsplit(request.url).path
        if path.startswith("/v1/jobs/"):
            asked.add(path.rpartition("/")[2])

    page = window.open("#create")
    for number in range(80):
        remember_drawing(page, {"id": unknown(number)}, days_ago=number / 100)
    page.on("request", note)
    page.get_by_role("tab", name="History").click()
    expect(cards(page)).to_have_count(80)
    expect(cards(page).first).to_contain_text("Expired")
    assert unknown(79) not in asked and len(asked) < 40
    cards(page).last.scroll_into_view_if_needed()
    expect(cards(page).last).to_contain_text("Expired")


def test_a_gateway_that_is_away_takes_nothing_along(window: Studio, atelier: Atelier) -> None:
    window.expected.append("ERR_INTERNET_DISCONNECTED")
    job = drawing(atelier.url)
    page = window.open("#history")
    remember_drawing(page, job)
    expect(cards(page)).to_contain_text("Done")
    window.context.set_offline(True)
    cards(page).get_by_role("button", name="Delete now").click()
    expect(page.get_by_role("log")).to_contain_text("The gateway does not answer")
    expect(cards(page)).to_have_count(1)
    window.context.set_offline(False)
    cards(page).get_by_role("button", name="Delete now").click()
    expect(cards(page)).to_have_count(0)


def test_a_photograph_without_a_face_is_one(window: Studio, atelier: Atelier) -> None:
    page = window.open("#history")
    remember_photograph(page, photograph(atelier.url, plain_picture()))
    expect(cards(page)).to_contain_text("No face found")


def test_the_tabs_take_keys_and_dropped_files_and_stay(window: Studio) -> None:
    page = window.open("#history")
    taken = page.evaluate(
        """() => {
            const files = new DataTransfer();
            files.items.add(new File(["x"], "x.png", { type: "image/png" }));
            const event = { dataTransfer: files, bubbles: true, cancelable: true };
            const dragged = ["dragover", "drop"].map((kind) => new DragEvent(kind, event));
            return dragged.map((each) => !document.body.dispatchEvent(each));
        }"""
    )
    assert taken == [True, True]  # otherwise the browser opens the file in the page's place
    history = page.get_by_role("tab", name="History")
    history.focus()
    page.keyboard.press("Home")
    expect(page.get_by_role("tab", name="Create")).to_be_focused()
    page.keyboard.press("End")
    expect(history).to_be_focused()
    page.keyboard.press("Alt+ArrowLeft")  # the browser's own: back, not left
    expect(page.get_by_role("tab", name="Restore")).to_have_attribute("aria-selected", "false")
