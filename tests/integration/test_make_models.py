"""`make models` against a real HTTP server: what it makes, and what it does with files one has already."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atelier_restorer.models import load_models
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError
from atelier_runtime.weights import ModelSet
from tests.file_server import FileServer, file_server
from tests.tiny_catalogue import BASE_FILES, LICENSE_TEXTS, published_files, write_catalog
from tests.tiny_restorer import codeformer_state
from tools.models.__main__ import main

FILES = published_files()
Run = Callable[..., int]


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as served:
        served.files |= FILES
        yield served


@pytest.fixture
def run(server: FileServer, tmp_path: Path) -> Run:
    """Run the command on the whole catalog, CodeFormer's license accepted, into tmp_path/set."""

    def run(*more: str, accept: str = "s-lab", catalog: Path | None = None) -> int:
        path = catalog or write_catalog(tmp_path / "catalogue.toml", server)
        accepted = ["--accept", accept] if accept else []
        return main(
            ["--to", str(tmp_path / "set"), "--catalogue", str(path), "--retry-pause", "0", *accepted, *more]
        )

    return run


def test_the_set_opens_verifies_and_the_restorer_loads_it(
    run: Run, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    folder = tmp_path / "set"
    model_set = ModelSet.open(str(folder))
    model_set.verify(NetworkRole.BASE, NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER)
    assert (model_set.name, model_set.max_side, model_set.size_multiple) == ("sdxl", None, 8)
    assert model_set.license == "License open; License s-lab"
    models = load_models(RestorerSettings(model_set=str(folder), device="cpu", dtype="float32"))
    assert models.detector is not None and models.codeformer is not None
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["licenses_accepted"] == ["s-lab"]
    assert manifest["components"]["codeformer"]["license_text"] == "licences/s-lab.txt"
    record = manifest["files"]["codeformer.safetensors"]
    assert record["source"] == f"{server.url}/faces/codeformer.pth"
    assert record["source_sha256"] == hashlib.sha256(FILES["/faces/codeformer.pth"]).hexdigest()
    assert str(folder / "manifest.json") in capsys.readouterr().out


def test_nothing_but_the_set_is_left_in_the_folder(run: Run, tmp_path: Path) -> None:
    assert run() == 0
    folder = tmp_path / "set"
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {
        *(f"base/{file}" for file in BASE_FILES),
        *(f"licences/{key}.txt" for key in LICENSE_TEXTS),
        *("codeformer.safetensors", "detector.safetensors", "manifest.json", ".lock"),
    }


def test_tensors_keep_names_values_and_dtypes(run: Run, tmp_path: Path) -> None:
    assert run() == 0
    state = load_file(tmp_path / "set/codeformer.safetensors")
    expected = {key: value.half() for key, value in codeformer_state().items()}
    assert {key: value.dtype for key, value in state.items()} == dict.fromkeys(expected, torch.float16)
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    detector = load_file(tmp_path / "set/detector.safetensors")
    assert not any(key.startswith("module.") for key in detector)
    assert detector["body.stage1.0.1.num_batches_tracked"].dtype == torch.int64


def test_a_second_run_fetches_nothing_and_leaves_the_manifest_as_it_was(
    run: Run, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    before = (tmp_path / "set/manifest.json").read_bytes()
    server.received.clear()
    capsys.readouterr()
    assert run(accept="") == 0  # what is there was accepted when it was fetched
    assert server.received == []
    assert "To fetch: 0 B" in capsys.readouterr().out
    assert (tmp_path / "set/manifest.json").read_bytes() == before


@pytest.mark.parametrize("file", ["base/unet/weights", "codeformer.safetensors"])
def test_a_file_damaged_later_is_fetched_again(
    run: Run, server: FileServer, tmp_path: Path, file: str
) -> None:
    assert run() == 0
    path = tmp_path / "set" / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    server.received.clear()
    assert run() == 0
    assert [request.path for request in server.received] == [
        "/sdxl/unet/weights" if "base" in file else "/faces/codeformer.pth"
    ]
    assert path.read_bytes() == whole


def test_listing_names_file_size_source_license_and_state_and_fetches_nothing(
    run: Run, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--only", "detector") == 0
    server.received.clear()
    capsys.readouterr()
    assert run("--list", accept="") == 0
    out = capsys.readouterr().out
    assert server.received == []
    assert "codeformer: tiny-codeformer, License s-lab" in out and f"{server.url}/sdxl\n" in out
    assert f"from {server.url}/faces/codeformer.pth" in out
    assert "must be accepted: --accept s-lab" in out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("  ")}
    assert lines["detector.safetensors"][2:] == ["here"]
    assert lines["base/unet/weights"] == ["10.00", "kB", "to", "fetch"]


def test_a_fresh_set_is_to_be_fetched_as_a_whole(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    missing, total = last.removeprefix("To fetch: ").split(" of ")
    assert missing == total, "license texts count on both sides"


def test_a_license_that_nobody_accepted_stops_the_run_with_the_flag_to_give(
    run: Run, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(accept="") == 2
    err = capsys.readouterr().err
    assert "--accept s-lab" in err and "--without codeformer" in err and "License s-lab" in err
    assert server.received == [] and not (tmp_path / "set/manifest.json").exists()


def test_a_mistyped_license_accepts_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(accept="slab") == 2
    assert "there is no such license, only open, s-lab" in capsys.readouterr().err


def test_the_set_can_be_had_without_what_is_not_accepted(
    run: Run, server: FileServer, tmp_path: Path
) -> None:
    assert run("--without", "codeformer", accept="") == 0
    model_set = ModelSet.open(str(tmp_path / "set"))
    assert set(model_set.components) == {"base", "detector"}
    assert not any("codeformer" in request.path or "s-lab" in request.path for request in server.received)
    assert load_models(RestorerSettings(model_set=str(tmp_path / "set"), device="cpu")).codeformer is None


def test_components_fetched_one_by_one_make_one_set(run: Run, tmp_path: Path) -> None:
    for role in ("detector", "codeformer", "base"):
        assert run("--only", role) == 0
    model_set = ModelSet.open(str(tmp_path / "set"))
    assert set(model_set.components) == {"base", "detector", "codeformer"}
    model_set.verify(*model_set.components)


def test_own_files_are_taken_by_their_checksum_under_any_name(
    run: Run, server: FileServer, tmp_path: Path
) -> None:
    own = tmp_path / "downloads" / "deep"
    own.mkdir(parents=True)
    (own / "codeformer-v0.1.0 (1).pth").write_bytes(FILES["/faces/codeformer.pth"])
    (own / "same size, other bytes").write_bytes(bytes(len(FILES["/faces/detector.pth"])))
    assert run("--from", str(tmp_path / "downloads")) == 0
    fetched = [request.path for request in server.received]
    assert "/faces/codeformer.pth" not in fetched and "/faces/detector.pth" in fetched
    assert (own / "codeformer-v0.1.0 (1).pth").read_bytes() == FILES["/faces/codeformer.pth"]
    ModelSet.open(str(tmp_path / "set")).verify(NetworkRole.FACE_RESTORER, NetworkRole.FACE_DETECTOR)


def test_a_mirror_keeps_host_and_path(run: Run, server: FileServer, tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalogue.toml", server)
    catalog.write_text(catalog.read_text().replace(server.url, "https://models.invalid"))
    server.files = {f"/mirror/models.invalid{path}": content for path, content in FILES.items()}
    assert run("--mirror", f"{server.url}/mirror/", catalog=catalog) == 0
    ModelSet.open(str(tmp_path / "set")).verify(
        NetworkRole.BASE, NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER
    )


def test_a_file_without_a_known_checksum_is_refused_unless_trusted_by_name(
    run: Run, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = write_catalog(tmp_path / "c.toml", server, unknown=("/sdxl/unet/weights",))
    assert run(catalog=catalog) == 2
    assert "--trust-unverified base/unet/weights" in capsys.readouterr().err
    assert server.received == []
    assert run("--trust-unverified", "base/unet/weights", catalog=catalog) == 0
    actual = hashlib.sha256(BASE_FILES["unet/weights"]).hexdigest()
    assert f"taken unverified; its SHA-256 is {actual}" in capsys.readouterr().err
    record = json.loads((tmp_path / "set/manifest.json").read_text())["files"]["base/unet/weights"]
    assert (record["sha256"], record["verified"]) == (actual, False)


def test_a_full_disk_is_known_before_the_first_byte(
    run: Run, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = write_catalog(tmp_path / "c.toml", server, sizes={"/sdxl/unet/weights": 10**18})
    assert run(catalog=catalog) == 1
    assert "bytes are needed" in capsys.readouterr().err and server.received == []


def test_a_strange_file_in_a_components_folder_is_told_before_the_download(
    run: Run, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unexpected = tmp_path / "set/base/unet/other.safetensors"
    unexpected.parent.mkdir(parents=True)
    unexpected.write_bytes(b"mine")
    assert run() == 1
    assert f"{unexpected} does not belong to this set" in capsys.readouterr().err
    assert server.received == [] and unexpected.read_bytes() == b"mine"


def test_a_set_whose_manifest_is_missing_is_none(run: Run, tmp_path: Path) -> None:
    assert run() == 0
    (tmp_path / "set/manifest.json").unlink()
    with pytest.raises(StartupError, match="there is no file"):
        ModelSet.open(str(tmp_path / "set"))
    assert run() == 0
    shutil.copytree(tmp_path / "set", tmp_path / "moved")
    ModelSet.open(str(tmp_path / "moved")).verify(NetworkRole.BASE)  # nothing in it knows where it lay
