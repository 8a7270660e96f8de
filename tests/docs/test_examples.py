"""Every example, by the command of its README or, the page, in Chromium."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.docs.conftest import Run
from tests.docs.pages import EXECUTED, ROOT
from tests.processes import Atelier, content, free_port, process, program, wait_for
from tests.serving import serving

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def test_every_example_is_run() -> None:
    folders = {path.name for path in (ROOT / "examples").iterdir() if path.is_dir()}
    tested_elsewhere = {"react", "kubernetes_indexed_job"}  # below, and in tests/k8s/test_archive_job.py
    assert folders == {name.removeprefix("examples/") for name in EXECUTED if "/" in name} | tested_elsewhere


def test_curl(run: Run, folder: Path) -> None:
    run("examples/curl")
    assert json.loads((folder / "faces.json").read_text())["faces"]
    for name in ("portrait.png", "restored.png"):
        with Image.open(folder / name) as image:
            assert (image.format, image.size) == ("PNG", (1024, 1024))


def test_python_over_http(run: Run, folder: Path, atelier: Atelier) -> None:
    printed = run("examples/python_http")
    assert "portrait.png: 1024x1024, seed 42" in printed
    with Image.open(folder / "portrait.png") as image:
        assert image.size == (1024, 1024)


def test_python_over_grpc(run: Run, folder: Path) -> None:
    printed = run("examples/python_grpc")
    assert printed.splitlines() == [f"w = {w}: 1 faces restored" for w in ("0", "0.6", "1")]
    with Image.open(folder / "restored.png") as image:
        assert image.size == (768, 768)


def test_grpcurl(run: Run) -> None:
    assert len(json.loads(run("examples/grpcurl"))["faces"]) == 1


@pytest.mark.slow
def test_ray_data(run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray leaves a token
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    names = [f"{day}/{number}.png" for day in ("monday", "tuesday") for number in range(3)]
    for name in names:
        photo = folder / "photos_for_ray" / name
        photo.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "docs/ruined.png", photo)
    (folder / "photos_for_ray/notes.txt").write_text("no photo")
    assert "0 photos failed" in run("examples/ray_data")
    report = map(json.loads, (folder / "restored_by_ray/report.jsonl").read_text().splitlines())
    expected = {name: {"input": name, "faces": 1, "restored": 1, "error": ""} for name in names}
    assert {each["input"]: each for each in report} == expected
    for name in names:
        with Image.open(folder / "restored_by_ray" / name) as image:
            assert image.size == (768, 768)
    shutil.rmtree(folder / "photos_for_ray/tuesday")
    (folder / "photos_for_ray/monday/0.png").write_bytes(b"no photo")
    with pytest.raises(AssertionError):
        run("examples/ray_data")
    [failure] = [
        each
        for each in map(json.loads, (folder / "restored_by_ray/report.jsonl").read_text().splitlines())
        if each["error"]
    ]
    assert failure["input"] == "monday/0.png" and failure["error"].startswith("image: ")


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass  # the test's output is not the place for access logs


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The page's server, as the example's README starts one."""
    handler = functools.partial(_Files, directory=str(ROOT / "examples/react"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def allowing(atelier: Atelier, origin: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway to the same services that allows the page's origin."""
    port, log = free_port(), tmp_path_factory.mktemp("gateway") / "gateway.log"
    backends = {"GENERATOR": atelier.generator, "RESTORER": atelier.restorer}
    with process("gateway", log, PORT=port, CORS_ORIGINS=origin, **backends):
        wait_for(lambda: b"ready" in content(f"http://127.0.0.1:{port}/readyz"), 60)
        yield f"http://127.0.0.1:{port}"


def test_the_react_page_shows_the_image_and_needs_nothing_from_elsewhere(origin: str, allowing: str) -> None:
    requested: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=FLAGS)
        page = browser.new_page()
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"{origin}?api={allowing}")
        page.get_by_label("Prompt").fill("portrait of a smiling woman, blue background")
        page.get_by_role("button").click()
        page.wait_for_function("document.querySelector('img')?.naturalWidth > 0", timeout=120_000)
        assert page.evaluate("document.querySelector('img').naturalWidth") == 1536
        assert page.get_by_role("status").inner_text().startswith("1536x1536, seed ")
        browser.close()
    assert all(url.startswith((origin, allowing, "data:")) for url in requested)


def test_the_react_page_shows_why_a_request_failed(origin: str, allowing: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=FLAGS)
        page = browser.new_page()
        page.goto(f"{origin}?api={allowing}")
        page.get_by_label("Prompt").fill("")
        page.get_by_role("button").click()
        status = page.get_by_role("status")
        status.filter(has_text="Failed: prompt: ").wait_for(timeout=30_000)
        browser.close()
