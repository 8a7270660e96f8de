"""`make models` with a profile or an alternative: another set of the same catalog."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier_restorer.identity_arcface import ArcFaceIdentifier
from atelier_restorer.models import load_models
from atelier_restorer.settings import RestorerSettings
from atelier_restorer.single_restorer import SingleRestorer
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.weights import ModelSet
from tests.file_server import FileServer, file_server
from tests.tiny_catalogue import published_files, saved, write_catalog
from tests.tiny_identity import arcface_state, mean_color_network
from tests.tiny_restorer import restoreformer_state
from tools.models.__main__ import main

ALTERNATIVE = "/faces/RestoreFormer.ckpt"
ONNX, ARCFACE = "/faces/sface.onnx", "/faces/recognition_arcface_ir_se50.pth"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as served:
        served.files |= published_files()
        served.files[ALTERNATIVE] = saved({"state_dict": restoreformer_state(), "epoch": 3})
        served.files |= {ONNX: mean_color_network(), ARCFACE: saved(arcface_state())}
        yield served


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())


@pytest.fixture
def catalog(server: FileServer, tmp_path: Path) -> Path:
    path = write_catalog(tmp_path / "catalogue.toml", server)
    content = server.files[ALTERNATIVE]
    checksum = hashlib.sha256(content).hexdigest()
    with path.open("a", encoding="utf-8") as file:
        file.write(f"""
[components.restoreformer]
role = "codeformer"
name = "RestoreFormer"
path = "restoreformer.safetensors"
license = "open"
files = [
  {{ url = "{server.url}{ALTERNATIVE}", bytes = {len(content)}, sha256 = "{checksum}" }},
]
[profiles.commercial]
description = "all of it open"
components = ["base", "detector", "restoreformer"]
[profiles.photo]
description = "without a base"
components = ["detector", "codeformer"]
""")
    return path


@pytest.fixture
def two_identity_networks(catalog: Path, server: FileServer) -> Path:
    entries = {"identity": (ONNX, "identity.onnx"), "arcface": (ARCFACE, "arcface.safetensors")}
    with catalog.open("a", encoding="utf-8") as file:
        for key, (address, path) in entries.items():
            content = server.files[address]
            checksum = hashlib.sha256(content).hexdigest()
            file.write(f"""
[components.{key}]
role = "identity"
name = "{key}"
path = "{path}"
license = "{"open" if key == "identity" else "s-lab"}"
files = [
  {{ url = "{server.url}{address}", bytes = {len(content)}, sha256 = "{checksum}" }},
]
""")
    return catalog


def test_an_alternative_takes_the_place_of_a_component_of_a_complete_set(
    two_identity_networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    commercial = ["--profile", "commercial", "--catalogue", str(two_identity_networks), "--to", str(folder)]
    assert main([*commercial, "--with", "identity"]) == 0
    assert json.loads((folder / "manifest.json").read_text())["components"]["identity"]["name"] == "identity"
    exchange = [*commercial, "--only", "identity", "--with", "arcface"]
    assert main(exchange) == 2
    assert "--accept s-lab" in capsys.readouterr().err, "the alternative's license is asked for"
    assert main([*exchange, "--accept", "s-lab"]) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["components"]) == {"base", "detector", "codeformer", "identity"}
    assert manifest["components"]["identity"]["path"] == "arcface.safetensors"
    assert "identity.onnx" not in manifest["files"] and "With arcface (" in manifest["description"]
    models = load_models(RestorerSettings(model_set=str(folder), device="cpu", cpu_threads=1))
    assert isinstance(models.identifier, ArcFaceIdentifier)
    assert models.components[NetworkRole.IDENTITY].name == "arcface"


def test_limits_measured_for_the_identity_network_outlast_further_runs(
    two_identity_networks: Path, server: FileServer, tmp_path: Path
) -> None:
    path = tmp_path / "set/manifest.json"
    limits = {"min_similarity": 0.41, "min_certainty": 0.2}
    commercial = ["--profile", "commercial", "--catalogue", str(two_identity_networks)]
    commercial += ["--to", str(path.parent), "--retry-pause", "0"]
    assert main([*commercial, "--with", "identity"]) == 0
    path.write_text(json.dumps(json.loads(path.read_text()) | {"identity": limits}))
    assert main([*commercial, "--with", "identity"]) == 0
    assert json.loads(path.read_text())["identity"] == limits
    (path.parent / "detector.safetensors").unlink()
    detector = server.files.pop("/faces/detector.pth")
    assert main([*commercial, "--with", "identity"]) == 1 and not path.exists()
    server.files["/faces/detector.pth"] = detector
    assert main([*commercial, "--with", "identity"]) == 0
    assert ModelSet.open(str(path.parent)).identity is not None, "nor does an interrupted run lose them"
    assert json.loads(path.read_text())["identity"] == limits
    assert main([*commercial, "--with", "arcface", "--accept", "s-lab"]) == 0
    assert "identity" not in json.loads(path.read_text()), "they say nothing about another network"
    assert not [file for file in path.parent.iterdir() if "before" in file.name]


def test_a_profile_takes_the_alternative_and_asks_for_no_license(
    catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    assert main(["--to", str(folder), "--catalogue", str(catalog), "--profile", "commercial"]) == 0
    assert f"ATELIER_GENERATOR_MODEL_SET={folder}" in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["name"], manifest["description"]) == ("commercial", "all of it open")
    assert manifest["licenses_accepted"] == []
    assert manifest["components"]["codeformer"]["path"] == "restoreformer.safetensors"
    assert not (folder / "codeformer.safetensors").exists()
    assert not (folder / "licences/s-lab.txt").exists()
    ModelSet.open(str(folder)).verify(*NetworkRole)
    models = load_models(RestorerSettings(model_set=str(folder), device="cpu", cpu_threads=1))
    assert isinstance(models.codeformer, SingleRestorer)
    assert models.components[NetworkRole.FACE_RESTORER].name == "RestoreFormer"


def test_a_set_without_a_base_is_offered_to_the_restorer_alone(
    catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    command = ["--to", str(folder), "--catalogue", str(catalog), "--profile", "photo"]
    assert main(command) == 2, "CodeFormer's license is not accepted"
    assert main([*command, "--accept", "s-lab"]) == 0
    out = capsys.readouterr().out
    assert f"\n  ATELIER_GATEWAY_GENERATOR=none ATELIER_RESTORER_MODEL_SET={folder} make run" in out
    model_set = ModelSet.open(str(folder))
    assert set(model_set.components) == {NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER}
    assert not (folder / "base").exists()


def test_without_a_profile_the_alternative_is_not_fetched(
    catalog: Path, server: FileServer, tmp_path: Path
) -> None:
    command = ["--to", str(tmp_path / "set"), "--catalogue", str(catalog), "--accept", "s-lab"]
    assert main(command) == 0
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert (manifest["name"], list(manifest["components"])) == ("sdxl", ["base", "detector", "codeformer"])
    assert manifest["components"]["codeformer"]["path"] == "codeformer.safetensors"


def test_another_profile_in_the_same_folder_fetches_only_what_it_lacks(
    catalog: Path, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--to", str(tmp_path / "set"), "--catalogue", str(catalog)]
    assert main([*command, "--accept", "s-lab"]) == 0
    for path in list(server.files):
        if path != ALTERNATIVE:
            del server.files[path]
    assert main([*command, "--profile", "commercial"]) == 0
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert manifest["components"]["codeformer"]["path"] == "restoreformer.safetensors"
    assert "codeformer.safetensors" not in manifest["files"]
