"""A page of another origin uses the gateway from Chromium: real sockets, scripted services."""

from __future__ import annotations

import http.server
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import chromium
from tests.contract.stack import Stack
from tests.serving import serving

# What a page does without a library: a string body, and no Content-Type.
PAGE = """<!doctype html><title>page</title><img id="picture"><p id="state">waiting</p>
<script>
  async function generate(url, body) {
    const state = document.getElementById('state');
    try {
      const response = await fetch(url, {method: 'POST', body: JSON.stringify(body)});
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
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _PageServer)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def page(browser: Browser, origin: str) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(origin)
    yield page
    page.close()


def state_after(page: Page, stack: Stack, body: dict[str, object]) -> str:
    page.evaluate("([url, body]) => generate(url, body)", [stack.url + "/generate", body])
    page.wait_for_function("document.getElementById('state').textContent !== 'waiting'")
    return page.inner_text("#state")


def test_a_page_of_an_allowed_origin_shows_the_image(page: Page, origin: str) -> None:
    with Stack(cors_origins=origin) as stack:
        body: dict[str, object] = {"prompt": "a red apple", "width": 320, "height": 256}
        assert state_after(page, stack, body) == "320x256"
        assert stack.generator.requests[0].prompt == "a red apple"


def test_a_page_of_an_allowed_origin_reads_why_it_was_refused(page: Page, origin: str) -> None:
    with Stack(cors_origins=origin) as stack:
        assert state_after(page, stack, {"prompt": "a red apple", "width": 1}) == "refused: width"


def test_a_page_of_another_origin_reads_nothing(page: Page) -> None:
    with Stack(cors_origins="http://elsewhere.example") as stack:
        body: dict[str, object] = {"prompt": "a red apple", "width": 256, "height": 256}
        assert state_after(page, stack, body) == "failed: TypeError"


def test_the_docs_page_renders_without_a_network(browser: Browser) -> None:
    requested: list[str] = []
    with Stack() as stack, browser.new_page() as page:
        page.on("request", lambda request: requested.append(request.url))
        page.goto(stack.url + "/docs")
        page.wait_for_selector(".opblock-summary-path")
        assert "/generate" in page.inner_text(".swagger-ui")
        assert not [url for url in requested if not url.startswith((stack.url, "data:"))]
