"""Keys that a gateway really has, and pages of others that really try, in real Chromium."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.keys import key, secret_of, write_keys
from tests.processes import Atelier, free_port, process, wait_for
from tests.studio.creating import fill, generate
from tests.studio.studio import Studio, studio


@pytest.fixture(scope="module")
def guarded_url(atelier: Atelier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with keys, before the services of all tests."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.toml"
    write_keys(keys, key("painter"))
    port = free_port()
    settings = {"GENERATOR": atelier.generator, "RESTORER": atelier.restorer, "API_KEYS": keys}
    with process("gateway", folder / "gateway.log", PORT=port, **settings):
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: is_ready(url))
        yield url


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def guarded(browser: Browser, guarded_url: str) -> Iterator[Studio]:
    with studio(browser, guarded_url) as opened:
        opened.expected.append("401")
        yield opened


def test_a_picture_is_drawn_and_loaded_with_a_key(guarded: Studio) -> None:
    page = guarded.open()
    expect(page.get_by_role("button", name="State")).to_contain_text("Key needed")
    fill(page)
    generate(page)
    page.get_by_role("button", name="Enter the key").click()
    field = page.get_by_label("API key")
    field.fill("atelier_a_guess")
    field.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("did not accept")
    field.fill(secret_of("painter"))
    field.press("Enter")
    expect(page.get_by_text("The key is saved.")).to_be_visible()
    page.keyboard.press("Escape")
    download = page.get_by_role("button", name="Download", exact=True)
    expect(download).to_be_visible()
    with page.expect_download() as waiting:
        download.click()
    assert Path(waiting.value.path()).read_bytes().startswith(b"\x89PNG")
    expect(page.get_by_role("button", name="State")).to_contain_text("Ready")
    page.goto("about:blank")
    page.goto(f"{guarded.url}/#history")
    expect(page.get_by_role("tabpanel", name="History").get_by_role("listitem")).to_contain_text("Done")


FOREIGN = """<!doctype html><title>a page of somebody else</title><script>
const gateway = location.hash.slice(1);
const body = '{"prompt": "a wish of somebody else", "width": 256, "height": 256}';
const headers = { "Content-Type": "text/plain" };
const form = new FormData();
form.append("image", new Blob([new Uint8Array([137, 80, 78, 71])]), "a.png");
Promise.allSettled([
  fetch(gateway + "/generate", { method: "POST", mode: "no-cors", headers, body }),
  fetch(gateway + "/detect", { method: "POST", mode: "no-cors", body: form }),
  fetch(gateway + "/sdapi/v1/interrupt", { method: "POST", mode: "no-cors" }),
]).then(() => { document.title = "tried"; });
</script>"""


@pytest.fixture
def foreign_url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "index.html").write_text(FOREIGN, encoding="utf-8")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_foreign_page_starts_nothing(browser: Browser, atelier: Atelier, foreign_url: str) -> None:
    """By requests that browsers send for any page, without asking the gateway first."""

    def refused() -> float:
        lines = httpx.get(f"{atelier.url}/metrics").text.splitlines()
        found = [line for line in lines if line.startswith('atelier_errors_total{reason="forbidden"}')]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0

    before = refused()
    calls = atelier.metric("atelier_request_duration_seconds_count", atelier.generator_metrics)
    context = browser.new_context()
    page = context.new_page()
    answers: list[int] = []
    page.on("response", lambda answer: answers.append(answer.status))
    page.goto(f"{foreign_url}/index.html#{atelier.url}")
    expect(page).to_have_title("tried", timeout=30_000)
    context.close()
    assert urlsplit(foreign_url).hostname != urlsplit(atelier.url).hostname
    assert refused() == before + 3 and answers.count(403) == 3
    assert atelier.metric("atelier_request_duration_seconds_count", atelier.generator_metrics) == calls
