"""`make screenshots`: takes the pictures of the page that README and docs show, one of each tab.

Starts the three processes with the demo models on free ports, does in Chromium what a person would, and stops
them all. `--url` takes a gateway that runs already. Seeds are fixed, so that the pictures stay the same.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, Route, ViewportSize, sync_playwright

from bench.generate import running

DOCS = Path(__file__).parents[1] / "docs"
PHOTOGRAPH = DOCS / "ruined.png"
PROMPTS = (
    ("Portrait of an old man with a white beard, green background", 3),
    ("Portrait of a smiling girl in a yellow shirt, sunny garden", 11),
    ("Portrait of a smiling woman with long brown hair, blue background", 6),
)
SIZE: ViewportSize = {"width": 1440, "height": 900}
MOST_BYTES = 250_000
_WAIT_MS = 300_000


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(prog="make screenshots", description=__doc__)
    parser.add_argument("--url", help="of a gateway that runs already, such as http://127.0.0.1:7860")
    parser.add_argument("--to", type=Path, default=DOCS, metavar="FOLDER")
    args = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("Chromium is missing: apt install chromium", file=sys.stderr)
        return 1
    if args.url:
        take(args.url.rstrip("/"), chromium, args.to)
    else:
        with atelier() as url:
            take(url, chromium, args.to)
    return 0


@contextmanager
def atelier() -> Iterator[str]:
    """Start the three processes with jobs of their own; yield the gateway's address."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            "ATELIER_GATEWAY_JOBS_DATABASE": f"sqlite:///{folder}/jobs.db",
            "ATELIER_GATEWAY_JOBS_FILES": f"file:{folder}/jobs",
        }
        with running(jobs) as url:
            yield url


def take(url: str, chromium: str, folder: Path) -> None:
    """Draw, restore, and write the three pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(
            viewport=SIZE, locale="en-US", color_scheme="light", reduced_motion="reduce"
        )
        context.set_default_timeout(_WAIT_MS)
        page = context.new_page()
        page.goto(f"{url}/#create")
        create(page)
        write(page, folder / "studio_create.png")
        restore(page)
        write(page, folder / "studio_restore.png")
        page.get_by_role("tab", name="History").click()
        history = page.get_by_role("tabpanel", name="History")
        history.locator("img").nth(len(PROMPTS)).wait_for()
        write(page, folder / "studio_history.png")
        browser.close()


def create(page: Page) -> None:
    """Draw each prompt at its seed."""
    panel = page.get_by_role("tabpanel", name="Create")
    for prompt, seed in PROMPTS:
        panel.get_by_role("textbox", name="Prompt", exact=True).fill(prompt)
        page.route("**/v1/jobs", partial(seeded, seed), times=1)
        with page.expect_response(lambda response: response.url.endswith("/v1/jobs")):
            panel.get_by_role("button", name="Generate", exact=True).click()
        panel.get_by_role("button", name="Cancel", exact=True).wait_for(state="hidden")
        panel.get_by_role("button", name="Download", exact=True).wait_for()
    settle(page, panel)


def seeded(seed: int, route: Route) -> None:
    """Send a request on with a seed."""
    asked = json.loads(route.request.post_data or "{}")
    asked["input"]["seed"] = seed
    route.continue_(post_data=json.dumps(asked))


def restore(page: Page) -> None:
    """Restore the documentation's photograph."""
    page.get_by_role("tab", name="Restore").click()
    panel = page.get_by_role("tabpanel", name="Restore")
    page.get_by_label("Photographs", exact=True).set_input_files(PHOTOGRAPH)
    panel.get_by_role("button", name="Face 1", exact=True).wait_for()
    panel.get_by_role("button", name="Restore", exact=True).click()
    panel.get_by_role("slider", name="Before and after").wait_for()
    settle(page, panel)


def settle(page: Page, panel: Locator) -> None:
    """Wait for pictures, and for nothing more to be asked for; nothing is marked or remarked."""
    page.mouse.move(2, 2)
    panel.locator("img").first.wait_for()
    page.wait_for_timeout(3000)
    for remark in page.get_by_role("log").get_by_role("button").all():
        remark.click()
    page.evaluate("document.activeElement?.blur(); scrollTo(0, 0)")


def write(page: Page, file: Path) -> None:
    """Write what the window shows, in few enough colors to be small."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colors in (256, 192, 128, 96, 64):
        data = io.BytesIO()
        picture.quantize(colors, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        if data.tell() <= MOST_BYTES:
            break
    file.write_bytes(data.getvalue())
    print(f"{file}: {data.tell() // 1000} kB, {colors} colors")


if __name__ == "__main__":
    sys.exit(main())
