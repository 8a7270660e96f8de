"""What tests do on the page's tab "Create"."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Locator, Page

PROMPT = "portrait of a woman with red hair, studio light"
Pixels = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Downloaded:
    """A file that the page has handed out."""

    name: str
    data: bytes

    @property
    def pixels(self) -> Pixels:
        """The file's, as RGB."""
        return np.asarray(Image.open(BytesIO(self.data)).convert("RGB"), dtype=np.int16)


def fill(page: Page, *, prompt: str = PROMPT, side: int = 256, steps: int = 2, seed: int | None = 42) -> None:
    """Fill the form for a small picture that is drawn soon."""
    page.get_by_role("textbox", name="Prompt", exact=True).fill(prompt)
    page.get_by_role("textbox", name="Seed", exact=True).fill("" if seed is None else str(seed))
    unfold(page)
    page.get_by_role("textbox", name="Width").fill(str(side))
    page.get_by_role("textbox", name="Height").fill(str(side))
    page.get_by_role("textbox", name="Steps").fill(str(steps))


def unfold(page: Page) -> None:
    """Show the fields that are folded away."""
    if not page.get_by_role("textbox", name="Width").is_visible():
        page.get_by_text("More", exact=True).click()


def generate(page: Page) -> None:
    """Ask for what the form says."""
    page.get_by_role("button", name="Generate", exact=True).click()


def download(page: Page) -> Downloaded:
    """Wait for a finished picture and take its file."""
    with page.expect_download() as handed_out:
        page.get_by_role("button", name="Download", exact=True).click()
    file = handed_out.value
    return Downloaded(file.suggested_filename, Path(file.path()).read_bytes())


def preview(page: Page) -> Locator:
    """What is seen of a picture that is being drawn."""
    return page.get_by_role("img", name="A preview of what is being drawn").first


def drop(page: Page, name: str, data: bytes) -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([name, bytes]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
            const target = document.querySelector("main");
            const event = { dataTransfer: files, bubbles: true, cancelable: true };
            for (const kind of ["dragover", "drop"]) target.dispatchEvent(new DragEvent(kind, event));
        }""",
        [name, list(data)],
    )
