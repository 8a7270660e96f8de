"""A catalog of tiny but real files, in the formats in which the large ones are published."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from tests.file_server import FileServer
from tests.tiny_restorer import FACES_OF_512_PX, codeformer_state, detector_state

LICENSE_TEXTS = {"open": b"Do what you like.\n", "s-lab": b"Non-commercial use only.\n"}
BASE_FILES = {
    "model_index.json": b"{}\n",
    "unet/config.json": b'{"sample_size": 8}\n',
    "unet/weights": b"w" * 9999,
}


def saved(data: Any) -> bytes:
    """What `torch.save` writes."""
    memory = io.BytesIO()
    torch.save(data, memory)
    return memory.getvalue()


def published_files() -> dict[str, bytes]:
    """The published files by their paths on the server: pickles, wrapped and prefixed as in practice."""
    detector = {f"module.{key}": value for key, value in detector_state({FACES_OF_512_PX: 0.99}).items()}
    half = {key: value.half() for key, value in codeformer_state().items()}
    files = {
        "/faces/detector.pth": saved(detector),
        "/faces/codeformer.pth": saved({"params_ema": half, "iter": 7}),
    }
    files |= {f"/licenses/{key}": text for key, text in LICENSE_TEXTS.items()}
    return files | {f"/sdxl/{path}": content for path, content in BASE_FILES.items()}


def write_catalog(
    path: Path, server: FileServer, *, sizes: dict[str, int] | None = None, unknown: tuple[str, ...] = ()
) -> Path:
    """Write the catalog of a server's files; `sizes` and `unknown` (no checksum) differ from them."""

    def facts(place: str) -> str:
        content = server.files[place]
        checksum = "" if place in unknown else hashlib.sha256(content).hexdigest()
        return f'bytes = {(sizes or {}).get(place, len(content))}, sha256 = "{checksum}"'

    lines = ['name = "sdxl"', 'description = "tiny"', "size_multiple = 8", "[licenses]"]
    for key in LICENSE_TEXTS:
        demand = "must_be_accepted = true, " if key == "s-lab" else ""
        place = f"/licenses/{key}"
        lines.append(
            f'{key} = {{ name = "License {key}", {demand}file = "{key}.txt", '
            f'url = "{server.url}{place}", {facts(place)} }}'
        )
    lines += ["[components.base]", 'name = "tiny-sdxl"', 'path = "base"', 'license = "open"']
    lines += [f'from = "{server.url}/sdxl/"', "files = ["]
    lines += [f'  {{ path = "{file}", {facts(f"/sdxl/{file}")} }},' for file in BASE_FILES]
    lines += ["]"]
    for role, license in (("detector", "open"), ("codeformer", "s-lab")):
        place = f"/faces/{role}.pth"
        lines += [f"[components.{role}]", f'name = "tiny-{role}"', f'path = "{role}.safetensors"']
        lines += [f'license = "{license}"', f'files = [{{ url = "{server.url}{place}", {facts(place)} }}]']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
