"""How much memory a request to the restorer takes, by megapixels and by faces, measured on a real service.

`python -m bench.memory` starts a fresh `atelier-restorer serve` for each row, with a CodeFormer so narrow
that its own memory does not show, sends it a small image and then the image that is measured, with its faces
given. Prints JSON: the peak resident memory during that request above what was resident before it, and what a
megapixel of the input and a face add. Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from atelier_restorer.client import connect
from atelier_restorer.nets.codeformer import CodeFormer, CodeFormerConfig
from atelier_restorer.request import Face, FaceEdit, MaskKind, RestoreRequest
from atelier_runtime.errors import ServiceNotReady, ServiceUnavailable
from atelier_runtime.images import Format, Picture, encode
from bench.face_scene import FaceScene, make_scene, make_scene_with_one_face
from bench.phases import reset_high_water_mark, resident_kib
from bench.report import machine, print_json

_NARROW = CodeFormerConfig(
    base_width=2,
    channel_multipliers=(1, 1, 2, 2, 4, 4),
    res_blocks=1,
    codebook_size=32,
    codebook_dim=8,
    transformer_dim=16,
    transformer_layers=1,
    mlp_dim=16,
)
_FACE_PX = 428
_START_S, _RESPONSE_S = 300, 600
_NOTES = {
    "mib": "VmHWM of the service during the request minus its VmRSS before; includes gRPC's copies",
    "mib_per_megapixel": "slope over the input's size in megapixels, one face of 428 px",
    "mib_per_face": "slope over the number of faces in one image; crops of 0.75 MiB before and after",
    "networks": "only a CodeFormer of 0.1 MiB: those of a model set come on top",
    "16 bits": "the low bytes are noise, which no file format can compress",
}


@dataclass(frozen=True)
class Case:
    """One request; `megapixels` are the input's."""

    file_format: Format = "png"
    bits: int = 8
    scale: int = 1
    return_mask: bool = False
    faces: int = 1
    megapixels: float = 4


VARIANTS = (
    Case(),
    Case(file_format="jpeg"),
    Case(file_format="webp"),
    Case(bits=16),
    Case(scale=2),
    Case(file_format="jpeg", scale=2),
    Case(bits=16, scale=2),
    Case(return_mask=True),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 12, 24])
    parser.add_argument("--faces", type=int, nargs="+", default=[1, 8, 30], help="in 4 megapixels")
    parser.add_argument("--variants", type=int, nargs="+", default=range(len(VARIANTS)), help="by number")
    given = parser.parse_args(arguments)
    result: dict[str, object] = {"machine": machine(), "notes": _NOTES}
    with tempfile.TemporaryDirectory() as folder:
        model_set = _narrow_set(Path(folder))
        result["by_size"] = [measure_sizes(VARIANTS[n], given.megapixels, model_set) for n in given.variants]
        result["by_faces"] = measure_faces(given.faces, model_set)
    print_json(result)


def measure_sizes(variant: Case, megapixels: Sequence[float], model_set: Path) -> dict[str, object]:
    """Measure one kind of request with images of several sizes."""
    cases = [replace(variant, megapixels=size) for size in megapixels]
    held, peaks = zip(*(measure(case, model_set) for case in cases), strict=True)
    kind = {name: value for name, value in asdict(variant).items() if name not in ("faces", "megapixels")}
    return kind | {
        "held_before_mib": max(held),
        "mib": {f"{size} MP": peak for size, peak in zip(megapixels, peaks, strict=True)},
        "mib_per_megapixel": slope(megapixels, peaks),
    }


def measure_faces(faces: Sequence[int], model_set: Path) -> dict[str, object]:
    """Measure images of one size with several numbers of faces."""
    peaks = [measure(Case(faces=number), model_set)[1] for number in faces]
    return {
        "megapixels": Case().megapixels,
        "mib": {f"{number} faces": peak for number, peak in zip(faces, peaks, strict=True)},
        "mib_per_face": slope(faces, peaks),
    }


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the slope of the line through points by least squares; None for fewer than two."""
    return round(float(np.polyfit(x, y, 1)[0]), 2) if len(x) > 1 else None


def measure(case: Case, model_set: Path) -> tuple[float, float]:
    """Return the MiB that a fresh service held before the request, and its peak above that during it."""
    small = make_scene(0.3, 1)
    scene = _scene(case)
    file = _file(scene, case)
    with _serving(model_set) as (process, address):
        _restore(address, small.file, _request(small, replace(case, return_mask=False)))
        reset_high_water_mark(process.pid)
        held = resident_kib("VmRSS", process.pid)
        _restore(address, file, _request(scene, case))
        peak = resident_kib("VmHWM", process.pid)
    added = round((peak - held) / 1024, 1)
    print(f"{case}: {added} MiB", file=sys.stderr)
    return round(held / 1024, 1), added


def _scene(case: Case) -> FaceScene:
    if case.faces == 1:
        return make_scene_with_one_face(case.megapixels, _FACE_PX)
    return make_scene(case.megapixels, case.faces)


def _file(scene: FaceScene, case: Case) -> bytes:
    rgb = scene.image
    if case.bits == 16:
        noise = np.random.default_rng(0).integers(0, 256, rgb.shape, np.uint16)
        return encode(Picture((rgb.astype(np.uint16) << 8) | noise), case.file_format, 95)
    return encode(Picture(rgb), case.file_format, 95)


def _request(scene: FaceScene, case: Case) -> RestoreRequest:
    faces = [
        Face(index=n, box=(0.0, 0.0, 1.0, 1.0), landmarks=tuple(points), confidence=1.0)
        for n, points in enumerate(scene.faces)
    ]
    return RestoreRequest(
        faces=tuple(FaceEdit(face) for face in faces),
        upscale=case.scale,
        use_upscaler=False,
        mask=MaskKind.FEATHER,
        return_mask=case.return_mask,
    )


def _restore(address: str, file: bytes, request: RestoreRequest) -> None:
    async def call() -> None:
        async with connect(address, timeout_s=_RESPONSE_S) as client:
            restored = await client.restore(file, request)
        faces = restored.report["faces"]
        if len(faces) != len(request.faces) or not all(face["restored"] for face in faces):
            raise RuntimeError(f"faces were not restored: {faces}")

    asyncio.run(call())


@contextmanager
def _serving(model_set: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start the service on a free port and yield it and its address once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "ATELIER_RESTORER_HOST": "127.0.0.1",
        "ATELIER_RESTORER_PORT": str(port),
        "ATELIER_RESTORER_METRICS_PORT": "0",
        "ATELIER_RESTORER_MODEL_SET": str(model_set),
        "ATELIER_RESTORER_DEVICE": "cpu",
        "ATELIER_RESTORER_MAX_PIXELS": str(2**27),
        "ATELIER_RESTORER_LOG_LEVEL": "error",
    }
    command = [sys.executable, "-m", "atelier_restorer", "serve"]
    process = subprocess.Popen(command, env=os.environ | settings)
    address = f"127.0.0.1:{port}"
    try:
        _wait_until_ready(process, address)
        yield process, address
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    scene, deadline = _smallest(), time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return _restore(address, scene.file, _request(scene, Case()))
        except (ServiceUnavailable, ServiceNotReady):
            time.sleep(0.2)
    raise RuntimeError("the service did not start")


@functools.cache
def _smallest() -> FaceScene:
    return make_scene(0.01, 1)


def _narrow_set(folder: Path) -> Path:
    """Write a model set that contains only a narrow CodeFormer with random weights."""
    torch.manual_seed(0)
    network = CodeFormer(_NARROW)
    torch.nn.init.normal_(network.position_emb)
    path = folder / "codeformer.safetensors"
    save_file({name: tensor.clone() for name, tensor in network.state_dict().items()}, path)
    content = path.read_bytes()
    manifest = {
        "name": "narrow",
        "license": "none: random numbers",
        "components": {"codeformer": {"path": path.name, "name": "narrow"}},
        "files": {path.name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


if __name__ == "__main__":
    main()
