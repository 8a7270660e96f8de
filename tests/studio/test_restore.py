"""The tab "Restore" in Chromium, on real processes with the demo models."""

from __future__ import annotations

import io
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from tests.processes import Atelier, free_port, process, ready, wait_for
from tests.studio.photographs import (
    FACE_PX,
    Pixels,
    add,
    button,
    comparison,
    count_jobs,
    download,
    encoded,
    face,
    give,
    newest_job,
    output,
    payload,
    people,
    pixels,
    restore,
)
from tests.studio.studio import Studio, studio


def _part(image: Pixels, box: list[float]) -> Pixels:
    x1, y1, x2, y2 = (round(edge) for edge in box)
    return image[max(0, y1) : y2, max(0, x1) : x2]


def test_each_face_is_treated_as_it_was_chosen(window: Studio, atelier: Atelier) -> None:
    """One face is skipped, one has a fidelity of its own, and nothing outside of the mask changes."""
    group = encoded(people(3))
    page = window.open("#restore")
    add(page, payload("wedding.png", group))

    face(page, 1).click()
    crops = page.get_by_role("radio", name="Fidelity")
    expect(crops).to_have_count(5)
    expect(page.locator(".crop img")).to_have_count(6, timeout=120_000)
    expect(page.get_by_role("radio", name="alike")).to_have_count(5)  # by the demo set's identity network
    assert len({page.locator(".crop img").nth(number).screenshot() for number in range(6)}) == 6
    page.get_by_role("radio", name="Fidelity 0.25").check()
    expect(page.get_by_role("slider", name="Fidelity", exact=True)).to_have_value("0.25")
    face(page, 2).click()
    page.get_by_role("checkbox", name="Leave as it is", exact=True).check()
    restore(page)

    rows = page.get_by_role("listitem").filter(has_text="Face ")
    expect(rows.nth(0)).to_contain_text("0.25")
    expect(rows.nth(1)).to_contain_text("left as it was")
    expect(rows.nth(2)).to_contain_text("0.60")
    name, file = download(page)
    assert name == "wedding-restored.png"

    before, after = pixels(group), pixels(file)
    job = newest_job(atelier.url, "restore")
    mask = pixels(output(atelier.url, job, "mask"))[..., 0]
    boxes = [each["box"] for each in job["result"]["faces"]]
    usual = httpx.post(
        f"{atelier.url}/restore", files={"image": group}, timeout=300, headers={"Accept": "image/png"}
    )
    default = pixels(usual.content)
    assert np.array_equal(before[mask == 0], after[mask == 0])
    assert np.array_equal(_part(before, boxes[1]), _part(after, boxes[1]))
    for changed in (boxes[0], boxes[2]):
        assert not np.array_equal(_part(before, changed), _part(after, changed))
    assert not np.array_equal(_part(default, boxes[0]), _part(after, boxes[0]))
    assert np.array_equal(_part(default, boxes[2]), _part(after, boxes[2]))


def test_a_broken_file_is_told_of_by_name_and_the_others_go_on(window: Studio) -> None:
    page = window.open("#restore")
    give(
        page,
        "drop",
        [payload("broken.jpg", b"no picture", "image/jpeg"), payload("good.png", encoded(people()))],
    )
    expect(page.get_by_role("alert")).to_contain_text(
        "broken.jpg could not be added. It is not a PNG, JPEG or WebP picture."
    )
    expect(button(page, "Try again")).to_have_count(0)
    expect(face(page, 1)).to_be_visible()
    button(page, "Remove broken.jpg").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("heading", name="good.png")).to_be_visible()


def _fail(route: Route) -> None:
    route.fulfill(status=500)


def test_a_folder_is_restored_and_downloaded_as_one_file(
    window: Studio, atelier: Atelier, tmp_path: Path
) -> None:
    """Names are the photographs' own, and no two alike; what is no picture is passed over."""
    for number, name in enumerate(("first/a.png", "second/deeper/a.png", "b.png")):
        file = tmp_path / "wedding" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(people(seed=number + 1)))
    (tmp_path / "wedding" / "notes.txt").write_text("no picture")
    page = window.open("#restore")
    page.get_by_label("Folder", exact=True).set_input_files(tmp_path / "wedding")
    button(page, "Restore all 3").click()
    name, data = download(page, "Download all 3 (zip)")
    assert name == "restored.zip"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert sorted(archive.namelist()) == ["a-restored (2).png", "a-restored.png", "b-restored.png"]
        restored = pixels(archive.read("b-restored.png"))
    before = pixels(tmp_path / "wedding" / "b.png")
    assert restored.shape == before.shape
    assert not np.array_equal(restored, before)

    window.expected.append("500")
    window.context.route(f"**/{newest_job(atelier.url, 'restore')['id']}/outputs/image", _fail)
    _, data = download(page, "Download all 3 (zip)")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.namelist()) == 2, "one that fails does not cost the others"
    expect(page.get_by_text("1 photograph could not be fetched, and is not in it: ")).to_be_visible()

    button(page, "Change and restore again").click()
    page.get_by_role("radio", name="Gentle", exact=True).check()
    button(page, "Use these settings for all photographs").click()
    expect(button(page, "Restore all 3")).to_be_visible()


def test_what_is_asked_for_while_the_gateway_is_away_is_sent_later(window: Studio, atelier: Atelier) -> None:
    """By two windows that wait for the gateway together, as one job."""
    window.expected.append("ERR_INTERNET_DISCONNECTED")
    page = window.open("#restore")
    add(page, payload("portrait.png", encoded(people(seed=5))))
    expect(face(page, 1)).to_be_visible()
    other = window.open("#restore")
    expect(face(other, 1)).to_be_visible()
    before = count_jobs(atelier.url, "restore")
    window.context.set_offline(True)
    button(page, "Restore").click()
    for each in (page, other):
        words = "The gateway does not answer. Is it running? What waits is sent"
        expect(each.get_by_text(words)).to_be_visible()
    window.context.set_offline(False)
    for each in (page, other):
        expect(comparison(each)).to_be_visible(timeout=120_000)
    assert count_jobs(atelier.url, "restore") == before + 1


def test_a_reload_loses_neither_choices_nor_the_restoration(window: Studio, atelier: Atelier) -> None:
    before = count_jobs(atelier.url, "restore")
    page = window.open("#restore")
    add(page, payload("portrait.png", encoded(people(seed=5))))
    face(page, 1).click()
    page.get_by_role("slider", name="Fidelity", exact=True).fill("0.9")
    button(page, "Restore").click()
    page.reload()
    expect(comparison(page)).to_be_visible(timeout=120_000)
    page.reload()  # what is done is remembered as done
    expect(comparison(page)).to_be_visible()
    button(page, "Change and restore again").click()
    expect(page.get_by_role("tabpanel", name="Restore")).to_contain_text("1 face has a choice of its own.")
    other = window.open("#restore")  # another tab has it, too
    expect(comparison(other)).to_be_visible()
    assert count_jobs(atelier.url, "restore") == before + 1


def test_a_reload_goes_on_with_what_is_being_sent(window: Studio, atelier: Atelier) -> None:
    before = count_jobs(atelier.url, "detect")
    page = window.open("#restore")
    window.context.route("**/v1/jobs", _keep_waiting)
    add(page, *(payload(f"{number}.png", encoded(people(seed=number))) for number in range(5)))
    sheet = page.get_by_role("region", name="Contact sheet").get_by_role("listitem")
    expect(sheet.filter(has_text="Sending")).to_have_count(2)
    _wait_for_uploads(page, 5)
    window.context.unroute("**/v1/jobs", _keep_waiting)
    page.reload()
    expect(sheet.get_by_role("link")).to_have_count(5)
    expect(sheet.filter(has_text="1 face")).to_have_count(5, timeout=120_000)
    assert count_jobs(atelier.url, "detect") == before + 5
    _wait_for_uploads(page, 0)


def _keep_waiting(route: Route) -> None:
    """As a gateway does that takes its time: there is no answer."""


def _wait_for_uploads(page: Page, count: int) -> None:
    """Wait until the browser keeps so many files that the gateway does not have."""
    page.wait_for_function(
        """(count) => new Promise((resolve) => {
          indexedDB.open("atelier").onsuccess = ({ target: { result: database } }) => {
            const asked = database.transaction("uploads").objectStore("uploads").count();
            asked.onsuccess = () => { database.close(); resolve(asked.result === count); };
          };
        })""",
        arg=count,
    )


def test_photographs_wait_for_a_gateway_that_takes_none_now(window: Studio) -> None:
    window.expected.append("503")
    page = window.open("#restore")
    refusal = {"error": {"code": "service_unavailable", "message": "The disk is away.", "fields": []}}

    def refuse(route: Route) -> None:
        window.context.unroute("**/v1/jobs", refuse)
        route.fulfill(status=503, json=refusal, headers={"Retry-After": "2"})

    window.context.route("**/v1/jobs", refuse)
    add(page, payload("portrait.png", encoded(people())))
    expect(page.get_by_text("The disk is away. What waits is sent as soon as possible.")).to_be_visible()
    expect(face(page, 1)).to_be_visible()
    expect(page.get_by_text("The disk is away.")).to_have_count(0)


def test_a_jpeg_saved_without_loss_keeps_what_was_left_alone(window: Studio, atelier: Atelier) -> None:
    group = encoded(people(2), "JPEG", quality=90)
    page = window.open("#restore")
    add(page, payload("wedding.jpg", group, "image/jpeg"))
    for number in (1, 2):
        face(page, number).click()
        page.get_by_role("checkbox", name="Leave as it is", exact=True).check()
    expect(button(page, "Restore")).to_be_disabled()
    expect(page.get_by_text("Every face is left as it is, and nothing is enlarged")).to_be_visible()
    page.get_by_role("checkbox", name="Leave as it is", exact=True).uncheck()
    expect(page.get_by_text("Compressed once more")).to_be_visible()
    page.get_by_role("radio", name="Lossless (PNG)", exact=True).check()
    restore(page)
    expect(page.locator(".photograph :focus")).to_have_count(1)  # not at the page's beginning
    name, file = download(page)
    assert name == "wedding-restored.png"
    job = newest_job(atelier.url, "restore")
    mask = pixels(output(atelier.url, job, "mask"))[..., 0]
    assert np.array_equal(pixels(group)[mask == 0], pixels(file)[mask == 0])

    button(page, "Remove wedding.jpg").click()
    button(page, "Keep it").click()
    expect(comparison(page)).to_be_visible()
    button(page, "Remove wedding.jpg").click()
    window.expected.append("status of 422")  # a comparison may be on its way, whose photograph is gone then
    button(page, "Yes, remove it").click()
    expect(page.get_by_label("Photographs", exact=True)).to_be_focused()


def test_a_pasted_photograph_stands_as_its_orientation_says(window: Studio) -> None:
    """The boxes are on the faces of the picture that is shown."""
    upright = people(seed=5)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    wide = Image.new("RGB", (FACE_PX, 2 * FACE_PX), (80, 120, 160))
    wide.paste(upright, (0, 0))
    file = encoded(wide.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    page = window.open("#restore")
    give(page, "paste", [payload("turned.jpg", file, "image/jpeg")])
    expect(face(page, 1)).to_be_visible()
    picture = page.get_by_role("img", name="turned.jpg").bounding_box()
    box = face(page, 1).bounding_box()
    assert picture is not None
    assert box is not None
    assert picture["height"] > picture["width"]
    middle = (box["y"] + box["height"] / 2 - picture["y"]) / picture["height"]
    assert 0.15 < middle < 0.4, "the face is in the upper half"


def test_without_a_face_another_look_or_an_enlargement_are_offered(window: Studio) -> None:
    page = window.open("#restore")
    add(page, payload("sky.png", encoded(Image.new("RGB", (96, 64), (120, 160, 220)))))
    expect(button(page, "Restore")).to_be_disabled()
    button(page, "Look thoroughly").click()
    expect(page.get_by_text("A thorough look found none either.")).to_be_visible()
    page.get_by_role("radio", name="2×").check()
    restore(page)
    _, file = download(page)
    assert pixels(file).shape == (128, 192, 3)


def test_it_fits_a_phone(browser: Browser, atelier: Atelier) -> None:
    with studio(browser, atelier.url, width=360, height=740) as phone:
        page = phone.open("#restore")
        _expect_no_overflow(page)
        add(page, payload(f"{'a long name ' * 12}.png", encoded(people(3))))
        face(page, 3).click()
        page.get_by_role("checkbox", name="Never change who it is", exact=True).check()
        _expect_no_overflow(page)
        restore(page)
        expect(page.get_by_text("The guard lets through what is at least 61% alike.")).to_be_visible()
        _expect_no_overflow(page)


def _expect_no_overflow(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_what_is_asked_for_waits_for_a_restorer_that_is_away(browser: Browser, tmp_path: Path) -> None:
    port, gateway = free_port(), free_port()
    url = f"http://127.0.0.1:{gateway}"
    settings = {"PORT": gateway, "GENERATOR": "none", "RESTORER": f"127.0.0.1:{port}"}

    def restorer(number: int) -> AbstractContextManager[Popen[bytes]]:
        return process("restorer", tmp_path / f"restorer{number}.log", PORT=port, METRICS_PORT=free_port())

    with process("gateway", tmp_path / "gateway.log", **settings), studio(browser, url) as window:
        window.expected.append("503")
        with restorer(1) as first:
            wait_for(lambda: ready(url))
            page = window.open("#restore")
            add(page, payload("portrait.png", encoded(people())))
            expect(face(page, 1)).to_be_visible()
            first.kill()
            first.wait()
        expect(page.get_by_text("The restorer cannot be reached.")).to_be_visible()
        button(page, "Restore").click()
        expect(button(page, "Cancel")).to_be_visible()
        with restorer(2):
            expect(comparison(page)).to_be_visible(timeout=240_000)
        _, file = download(page)
        assert pixels(file).shape == (FACE_PX, FACE_PX, 3)
