"""When the page is seen: `python -m bench.studio` opens it in Chromium, each time with an empty profile.

Starts a gateway without services, which serves the page all the same; `--url` takes one that runs already.
Times are Chromium's own (Paint Timing), in ms since the navigation began; `usable` is when the tabs are
there. Needs chromium.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Playwright, sync_playwright

from atelier_gateway.studio import FOLDER
from bench.report import machine, print_json, spread

_TIMES = """async () => {
  const paints = performance.getEntriesByType("paint");
  const scripts = performance.getEntriesByType("resource").filter((each) => each.name.endsWith(".js"));
  const all = performance.getEntriesByType("resource").filter((each) => each.name.includes("/studio/"));
  const sum = (entries) => entries.reduce((total, each) => total + each.transferSize, 0);
  return {
    ...Object.fromEntries(paints.map((paint) => [paint.name, paint.startTime])),
    usable: window.usableAt,
    transferred_js: sum(scripts),
    transferred: sum(all),
  };
}"""
_WATCH = """new MutationObserver((_, observer) => {
  if (!document.querySelector("[role=tablist]")) return;
  window.usableAt = performance.now();
  observer.disconnect();
}).observe(document, { childList: true, subtree: true });"""


def first_view(playwright: Playwright, chromium: str, url: str) -> dict[str, float]:
    """Return the times and bytes of one visit by a browser that was just started."""
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
    try:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.add_init_script(_WATCH)
        page.goto(url, wait_until="load")
        while not page.evaluate("performance.getEntriesByType('paint').length >= 2 && window.usableAt > 0"):
            page.wait_for_timeout(20)  # wait_for_function needs eval, which the page's policy forbids
        times: dict[str, float] = page.evaluate(_TIMES)
        return times
    finally:
        browser.close()


def compressed_javascript() -> int:
    """Return the bytes of the built JavaScript after gzip."""
    return sum(len(gzip.compress(path.read_bytes(), 9)) for path in FOLDER.rglob("*.js"))


@contextmanager
def gateway() -> Iterator[str]:
    """Start a gateway whose services are away; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        environment = os.environ | {
            "ATELIER_GATEWAY_HOST": "127.0.0.1",
            "ATELIER_GATEWAY_PORT": str(port),
            "ATELIER_GATEWAY_JOBS_DATABASE": f"sqlite:///{folder}/jobs.db",
            "ATELIER_GATEWAY_JOBS_FILES": f"file:{folder}/jobs",
        }
        command = [sys.executable, "-m", "atelier_gateway", "serve"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            while process.poll() is None:
                try:
                    urllib.request.urlopen(f"{url}/livez", timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait()


def measure(url: str, chromium: str, runs: int) -> dict[str, object]:
    """Return the spread of some visits; one more before them does not count."""
    with sync_playwright() as playwright:
        visits = [first_view(playwright, chromium, url) for _ in range(runs + 1)][1:]
    return {
        "first paint, ms": spread([visit["first-paint"] for visit in visits]),
        "first contentful paint, ms": spread([visit["first-contentful-paint"] for visit in visits]),
        "usable, ms": spread([visit["usable"] for visit in visits]),
        "JavaScript transferred, bytes": visits[0]["transferred_js"],
        "transferred, bytes": visits[0]["transferred"],
        "JavaScript after gzip, bytes": compressed_javascript(),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a gateway that runs already")
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("Chromium is missing: apt install chromium")
    before = machine()
    if args.url:
        result = measure(args.url, chromium, args.runs)
    else:
        with gateway() as url:
            result = measure(url, chromium, args.runs)
    print_json({"machine": before, **result})


if __name__ == "__main__":
    main()
