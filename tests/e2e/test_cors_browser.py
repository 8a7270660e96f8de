"""A page of another origin uses the gateway from a real browser: Chromium, real sockets, scripted stages."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.contract.scripted_stages import House
from tests.e2e.conftest import program

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# The seed guide's snippet without React: a string body, and no Content-Type.
PAGE = """<!doctype html><title>page</title><img id="picture"><p id="state">waiting</p>
<script>
  async function draw(url, order) {
    const state = document.getElementById('state');
    try {
      const response = await fetch(url, {method: 'POST', body: JSON.stringify(order)});
      const answer = await response.json();
      if (!answer.success) { state.textContent = 'refused: ' + answer.error.fields[0].field; return; }
      const picture = document.getElementById('picture');
      picture.onload = () => { state.textContent = picture.naturalWidth + 'x' + picture.naturalHeight; };
      picture.src = answer.image;
    } catch (error) { state.textContent = 'failed: ' + error.name; }
  }
</script>"""


class _PageServer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAGE.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass  # the test's output is not the place for access logs


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _PageServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser: Browser, origin: str) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(origin)
    yield page
    page.close()


def state_after(page: Page, house: House, order: dict[str, object]) -> str:
    page.evaluate("([url, order]) => draw(url, order)", [house.url + "/generate", order])
    page.wait_for_function("document.getElementById('state').textContent !== 'waiting'")
    return page.inner_text("#state")


def test_a_page_of_an_allowed_origin_shows_the_picture(page: Page, origin: str) -> None:
    house = House(cors_origins=origin)
    try:
        order = {"prompt": "a red apple", "width": 320, "height": 256}
        assert state_after(page, house, order) == "320x256"
        assert house.generator.requests[0].prompt == "a red apple"
    finally:
        house.close()


def test_a_page_of_an_allowed_origin_reads_why_it_was_refused(page: Page, origin: str) -> None:
    house = House(cors_origins=origin)
    try:
        assert state_after(page, house, {"prompt": "a red apple", "width": 1}) == "refused: width"
    finally:
        house.close()


def test_a_page_of_another_origin_reads_nothing(page: Page) -> None:
    house = House(cors_origins="http://elsewhere.example")
    try:
        order = {"prompt": "a red apple", "width": 256, "height": 256}
        assert state_after(page, house, order) == "failed: TypeError"
    finally:
        house.close()


def test_the_docs_page_is_drawn_without_a_network(browser: Browser) -> None:
    house = House()
    page = browser.new_page()
    foreign: list[str] = []
    page.on(
        "request",
        lambda request: foreign.append(request.url) if not request.url.startswith(house.url) else None,
    )
    try:
        page.goto(house.url + "/docs")
        page.wait_for_selector(".opblock-summary-path")
        assert "/generate" in page.inner_text(".swagger-ui")
        assert [url for url in foreign if not url.startswith("data:")] == []
    finally:
        page.close()
        house.close()
