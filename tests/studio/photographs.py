"""Photographs for the tests of the tab "Restore": drawn, with faces that the demo detector finds."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect

from drawing import draw

Pixels = NDArray[np.uint8]

FACE_PX = 256
"""The side of the drawing of one face."""

_DROP = """([kind, files]) => {
  const transfer = new DataTransfer();
  for (const { name, type, data } of files)
    transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
  const options = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(
    kind === "paste"
      ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
      : new DragEvent("drop", { ...options, dataTransfer: transfer }));
}"""


def people(count: int = 1, seed: int = 4) -> Image.Image:
    """Draw that many faces beside one another, each softened as in a small print."""
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([draw(rng, FACE_PX, "portrait").image for _ in range(count)], axis=1)
    image = Image.fromarray(drawn)
    return image.resize((image.width // 4, image.height // 4), Image.Resampling.LANCZOS).resize(
        image.size, Image.Resampling.BICUBIC
    )


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(file: bytes | Path) -> Pixels:
    """The decoded pixels of a file, its orientation as it is stored."""
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        return np.asarray(image.convert("RGB"))


def payload(name: str, data: bytes, media_type: str = "image/png") -> FilePayload:
    """A file for an input."""
    return {"name": name, "mimeType": media_type, "buffer": data}


def give(page: Page, how: str, files: Sequence[FilePayload]) -> None:
    """Drop files onto the page, or paste them into it; `how`: drop or paste."""
    given = [
        {"name": f["name"], "type": f["mimeType"], "data": base64.b64encode(f["buffer"]).decode()}
        for f in files
    ]
    page.evaluate(_DROP, [how, given])


def add(page: Page, *files: FilePayload) -> None:
    """Choose files."""
    page.get_by_label("Photographs", exact=True).set_input_files(list(files))


def face(page: Page, number: int) -> Locator:
    """The button of a face that was found."""
    return page.get_by_role("button", name=f"Face {number}", exact=True)


def button(page: Page, name: str) -> Locator:
    """A button by its whole name."""
    return page.get_by_role("button", name=name, exact=True)


def comparison(page: Page) -> Locator:
    """The slider of a photograph that has been restored."""
    return page.get_by_role("slider", name="Before and after", exact=True)


def restore(page: Page) -> None:
    """Restore the photograph in view, and wait for it."""
    button(page, "Restore").click()
    expect(comparison(page)).to_be_visible(timeout=120_000)


def download(page: Page, name: str = "Download") -> tuple[str, bytes]:
    """Click a button that downloads; return the file's name and content."""
    with page.expect_download() as started:
        page.get_by_role("button", name=name).click()
    return started.value.suggested_filename, Path(started.value.path()).read_bytes()


def newest_job(url: str, kind: str) -> dict[str, Any]:
    """The job of a type that was submitted last."""
    jobs: list[dict[str, Any]] = httpx.get(f"{url}/v1/jobs").json()["data"]
    return next(job for job in jobs if job["type"] == kind)


def count_jobs(url: str, kind: str) -> int:
    """How many jobs of a type there are."""
    found = 0
    parameters = {"limit": "100"}
    while True:
        page = httpx.get(f"{url}/v1/jobs", params=parameters).raise_for_status().json()
        found += sum(1 for job in page["data"] if job["type"] == kind)
        if not page["has_more"]:
            return found
        parameters["before"] = page["next"]


def output(url: str, job: dict[str, Any], name: str) -> bytes:
    """The file of a job's output."""
    return httpx.get(f"{url}/v1/jobs/{job['id']}/outputs/{name}").raise_for_status().content
