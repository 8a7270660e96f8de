"""The images, built from the Dockerfiles and started as they say: alive, without privileges, drawing."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.k8s import engine
from tests.k8s.engine import Engine
from tests.k8s.manifests import NAMES
from tests.processes import free_port, ready, wait_for

PORTRAIT = "portrait of a smiling woman with long brown hair, blue background"
pytestmark = [pytest.mark.slow, pytest.mark.images]


@pytest.fixture(scope="module")
def buildah() -> Iterator[Engine]:
    engine.require()
    with engine.engine(Path(tempfile.mkdtemp(prefix="images-", dir="/var/tmp"))) as made:
        yield made


@pytest.fixture(scope="module")
def images(buildah: Engine) -> dict[str, str]:
    base = buildah.build_base()
    return {name: buildah.build(name, base) for name in NAMES}


def draw(url: str, seed: int) -> dict[str, Any]:
    body = {"prompt": PORTRAIT, "width": 512, "height": 512, "steps": 20, "seed": seed}
    answer = httpx.post(f"{url}/generate", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    head, _, data = found["image"].partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert head == "data:image/png;base64" and image.size == (512, 512)
    return found


def test_what_the_dockerfiles_build_starts_without_privileges_and_draws(
    buildah: Engine, images: dict[str, str], tmp_path: Path
) -> None:
    ports = {name: free_port() for name in NAMES}
    settings: dict[str, dict[str, object]] = {
        name: {
            f"ATELIER_{name.upper()}_HOST": "127.0.0.1",
            f"ATELIER_{name.upper()}_PORT": port,
            f"ATELIER_{name.upper()}_METRICS_PORT": free_port(),
        }
        for name, port in ports.items()
    }
    for name in ("generator", "restorer"):
        settings["gateway"][f"ATELIER_GATEWAY_{name.upper()}"] = f"127.0.0.1:{ports[name]}"
    url = f"http://127.0.0.1:{ports['gateway']}"
    with (
        buildah.container(images["generator"], tmp_path / "generator", **settings["generator"]) as generator,
        buildah.container(images["restorer"], tmp_path / "restorer", **settings["restorer"]) as restorer,
        buildah.container(images["gateway"], tmp_path / "gateway", **settings["gateway"]) as gateway,
    ):
        containers = (gateway, generator, restorer)
        wait_for(lambda: all(each.is_alive for each in containers))
        wait_for(lambda: ready(url))
        for each in containers:
            user, group = map(int, each.config["User"].split(":"))
            process = each.process()
            assert set(process.uids()) == {user} and set(process.gids()) == {group}
        portraits = (draw(url, seed) for seed in range(1, 9))
        assert any(each["face_restoration_applied"] for each in portraits), "no face was found"
        assert [each.stop() for each in containers] == [0, 0, 0]
        for each in containers:
            allowed = ("/tmp", *(each.config.get("Volumes") or {}))
            assert not [path for path in each.written() if not path.startswith(allowed)]
