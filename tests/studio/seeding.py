"""Jobs and entries that tests need before they look at the page, as if a person had asked for them there."""

from __future__ import annotations

import io
import time
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page

PROMPT = "portrait of a smiling woman with long brown hair"
SMALL: dict[str, Any] = {"width": 256, "height": 256, "num_inference_steps": 2}
_REMEMBER = """async (entry) => {
  const opened = await new Promise((resolve, reject) => {
    const request = indexedDB.open("atelier");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  await new Promise((resolve, reject) => {
    const transaction = opened.transaction("entries", "readwrite");
    transaction.objectStore("entries").put(entry);
    transaction.oncomplete = resolve;
    transaction.onerror = () => reject(transaction.error);
  });
  opened.close();
  const channel = new BroadcastChannel("atelier.entries");
  channel.postMessage("changed");
  setTimeout(() => channel.close(), 1000);
}"""


def drawing(url: str, *, wait: int = 60, **given: Any) -> dict[str, Any]:
    """A job that draws a small picture, ended if `wait` is not 0."""
    body = {"type": "generate", "input": {"prompt": PROMPT, "seed": 6, **SMALL, **given}}
    headers = {"Prefer": f"wait={wait}"} if wait else {}
    job: dict[str, Any] = httpx.post(f"{url}/v1/jobs", json=body, headers=headers, timeout=90).json()
    return job


def photograph(url: str, picture: bytes) -> dict[str, Any]:
    """A job that finds the faces of a picture and keeps it."""
    job: dict[str, Any] = httpx.post(
        f"{url}/v1/jobs",
        data={"type": "detect", "input": "{}", "keep_files": "true"},
        files={"image": ("grandmother.png", picture)},
        headers={"Prefer": "wait=60"},
        timeout=90,
    ).json()
    return job


def made_of(url: str, kind: str, found: dict[str, Any], **given: Any) -> str:
    """The number of a job of that kind, ended, that was made of a photograph's job."""
    image = {"job": found["id"], "output": "input_image"}
    job: dict[str, Any] = httpx.post(
        f"{url}/v1/jobs",
        json={"type": kind, "input": {"image": image, **given}},
        headers={"Prefer": "wait=60"},
        timeout=90,
    ).json()
    return str(job["id"])


def output(url: str, job: dict[str, Any], name: str = "image") -> bytes:
    """A file that a job has made."""
    response = httpx.get(f"{url}/v1/jobs/{job['id']}/outputs/{name}", timeout=60)
    response.raise_for_status()
    return response.content


def plain_picture(side: int = 64) -> bytes:
    """A PNG without a face."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (140, 110, 80)).save(file, "PNG")
    return file.getvalue()


def remember_drawing(page: Page, job: dict[str, Any], *, days_ago: float = 0, **given: Any) -> None:
    """Have the browser know a drawing's job as its own."""
    entry = {
        "kind": "creation",
        "id": job["id"],
        "createdAt": (time.time() - days_ago * 86_400) * 1000,
        "expiresAt": None,
        "thumbnail": None,
        "input": {"prompt": PROMPT, "seed": 6, **SMALL},
    }
    page.evaluate(_REMEMBER, entry | given)


def remember_photograph(
    page: Page, job: dict[str, Any], *, restoration: str | None = None, **given: Any
) -> None:
    """Have the browser know a photograph's job as its own."""
    result = job.get("result") or {}
    settings = {"fidelity": 0.6, "visibility": 1, "upscale": 1, "identity": "report", "mask": "feather"}
    entry = {
        "kind": "photograph",
        "id": job["id"],
        "createdAt": time.time() * 1000,
        "expiresAt": None,
        "thumbnail": None,
        "fileName": "grandmother.png",
        "batch": "b",
        "width": 64,
        "height": 64,
        "faces": result.get("faces", []),
        "settings": settings,
        "choices": {},
        "restoration": restoration,
    }
    page.evaluate(_REMEMBER, entry | given)
