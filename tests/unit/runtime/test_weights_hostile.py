"""A model set that someone changes while it is read, that has links, or whose manifest is made to do harm."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from atelier_runtime import weights
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError
from atelier_runtime.snapshot import take
from atelier_runtime.weights import CheckpointError, Component, ModelSet

LISTED = save({"a": torch.ones(1000)})
SWAPPED = save({"a": torch.zeros(1000)})


def write_manifest(folder: Path, **changes: Any) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"sha256": weights.sha256(path)}
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    manifest = {
        "name": "small",
        "license": "Apache-2.0",
        "components": {
            "detector": {"path": "detector.safetensors", "name": "d"},
            "base": {"path": "base", "name": "b"},
        },
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "base/unet").mkdir(parents=True)
    (folder / "detector.safetensors").write_bytes(LISTED)
    (folder / "base/unet/model.safetensors").write_bytes(LISTED)
    write_manifest(folder)
    return folder


def detector(folder: Path) -> Component:
    return ModelSet.open(str(folder)).require(NetworkRole.FACE_DETECTOR)


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(SWAPPED)
    path.with_name("new").replace(path)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(SWAPPED)


def cut(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize("swap", [replace, overwrite, cut])
def test_what_was_compared_with_the_manifest_is_what_is_loaded(
    folder: Path, swap: Callable[[Path], None]
) -> None:
    component = detector(folder)
    with component.read(component.path) as snapshot:
        swap(component.path)
        assert torch.equal(weights.read_snapshot(snapshot)["a"], torch.ones(1000))
    with pytest.raises(StartupError, match=r"^MODEL_SET: .*detector\.safetensors"):
        component.state_dict()


@pytest.mark.parametrize("swap", [overwrite, cut])
def test_loaded_weights_do_not_change_with_the_file(folder: Path, swap: Callable[[Path], None]) -> None:
    """Mapped files do, and reading a mapped file that was cut ends the process."""
    loaded = detector(folder).state_dict()
    swap(folder / "detector.safetensors")
    assert torch.equal(loaded["a"], torch.ones(1000))


def test_a_swap_between_checking_and_loading_is_noticed(folder: Path) -> None:
    model_set = ModelSet.open(str(folder))
    model_set.verify(NetworkRole.FACE_DETECTOR)
    overwrite(folder / "detector.safetensors")
    with pytest.raises(StartupError, match="SHA-256"):
        model_set.require(NetworkRole.FACE_DETECTOR).state_dict()


def test_the_copy_can_be_changed_by_nobody(folder: Path) -> None:
    with take(folder / "detector.safetensors") as snapshot, open(snapshot.path, "r+b", buffering=0) as file:
        with pytest.raises(PermissionError):
            file.write(b"x")
        with pytest.raises(PermissionError):
            file.truncate(3)


def test_what_was_loaded_is_not_read_again_to_be_verified(folder: Path) -> None:
    model_set = ModelSet.open(str(folder))
    model_set.require(NetworkRole.FACE_DETECTOR).state_dict()
    overwrite(folder / "detector.safetensors")
    model_set.verify(NetworkRole.FACE_DETECTOR)
    with pytest.raises(StartupError, match="SHA-256"):
        ModelSet.open(str(folder)).verify(NetworkRole.FACE_DETECTOR)


@contextmanager
def swapping(path: Path, *contents: bytes) -> Iterator[None]:
    """Put one content after the other in a file's place, as fast as possible."""
    prepared = [path.with_name(f"{path.name}.{number}") for number in range(len(contents))]
    stop = threading.Event()

    def swap() -> None:
        for number in itertools.cycle(range(len(contents))):
            prepared[number].write_bytes(contents[number])
            prepared[number].replace(path)
            if stop.is_set():
                return

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_file_that_is_swapped_all_the_time_is_loaded_as_listed_or_not_at_all(folder: Path) -> None:
    component, outcomes = detector(folder), set[str]()
    with swapping(component.path, LISTED, SWAPPED):
        for _ in range(100):
            try:
                assert torch.equal(component.state_dict()["a"], torch.ones(1000))
                outcomes.add("loaded")
            except StartupError as error:
                assert "detector.safetensors in" in str(error)
                outcomes.add("refused")
    assert "refused" in outcomes


def test_the_hash_is_that_of_the_manifest_that_was_read(folder: Path) -> None:
    write_manifest(folder, name="other")
    other = (folder / "manifest.json").read_bytes()
    write_manifest(folder)
    small = (folder / "manifest.json").read_bytes()
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in (("small", small), ("other", other))}
    with swapping(folder / "manifest.json", small, other):
        for _ in range(200):
            opened = ModelSet.open(str(folder))
            assert opened.hash == hashes[opened.name]


def link_a_folder(folder: Path) -> str:
    (folder / "base/unet").rename(folder.parent / "elsewhere")
    (folder / "base/unet").symlink_to(folder.parent / "elsewhere")
    return "base/unet"


def link_a_folder_within(folder: Path) -> str:
    (folder / "base/unet").rename(folder / "other")
    (folder / "base/unet").symlink_to("../other")
    return "base/unet"


def link_a_file(folder: Path) -> str:
    (folder / "base/unet/model.safetensors").rename(folder.parent / "elsewhere")
    (folder / "base/unet/model.safetensors").symlink_to(folder.parent / "elsewhere")
    return "base/unet/model.safetensors"


def add_a_link_to_nothing(folder: Path) -> str:
    (folder / "base/more").symlink_to("nowhere")
    return "base/more"


def link_the_component(folder: Path) -> str:
    (folder / "base").rename(folder / "other")
    (folder / "base").symlink_to("other")
    return "base"


@pytest.mark.parametrize(
    "link", [link_a_folder, link_a_folder_within, link_a_file, add_a_link_to_nothing, link_the_component]
)
def test_a_link_in_a_component_is_refused(folder: Path, link: Callable[[Path], str]) -> None:
    name = link(folder)
    model_set = ModelSet.open(str(folder))
    for check in (model_set.verify, model_set.check_files):
        with pytest.raises(StartupError, match=f"MODEL_SET: {name} in .* is a link"):
            check(NetworkRole.BASE)


def test_a_linked_file_is_not_loaded(folder: Path) -> None:
    (folder / "detector.safetensors").rename(folder / "other.safetensors")
    (folder / "detector.safetensors").symlink_to("other.safetensors")
    with pytest.raises(StartupError, match=r"detector\.safetensors in .* is a link"):
        detector(folder).state_dict()


def test_the_sets_own_folder_may_be_a_link(folder: Path) -> None:
    (folder.parent / "current").symlink_to(folder)
    model_set = ModelSet.open(str(folder.parent / "current"))
    model_set.verify(*NetworkRole)
    assert model_set.require(NetworkRole.FACE_DETECTOR).state_dict()["a"].sum() == 1000


def test_a_pipe_in_a_component_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "base/unet/pipe")
    with pytest.raises(StartupError, match="base/unet/pipe is not a regular file"):
        ModelSet.open(str(folder)).check_files(NetworkRole.BASE)


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ("[" * 200_000, "recursion limit"),
        ('{"name":' * 100_000 + "1" + "}" * 100_000, "recursion limit"),
        ('{"name": "\\ud800"}', "invalid"),
        (b"\xff\xfe{}", "invalid"),
        ("", "invalid"),
        ("[]", "should be an object"),
        ('{"license": "x", "components": {}, "files": {}}', "name Field required"),
        (" " * (17 << 20), "at most"),
    ],
    ids=["lists", "objects", "surrogate", "utf-16", "empty", "list", "no name", "large"],
)
def test_a_manifest_that_is_none_is_a_clear_error(folder: Path, manifest: str | bytes, problem: str) -> None:
    content = manifest if isinstance(manifest, bytes) else manifest.encode()
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(StartupError, match=rf"^MODEL_SET=.*manifest\.json.*{problem}") as caught:
        ModelSet.open(str(folder))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": 7}, "name .*7"),
        ({"size_multiple": 0}, "size_multiple .*0"),
        ({"size_multiple": "8"}, "size_multiple .*'8'"),
        ({"guidance_rescale": 10**400}, "guidance_rescale"),
        ({"guidance_rescale": 1.5}, "guidance_rescale .*1.5"),
        ({"guidance_rescale": float("nan")}, "guidance_rescale"),
        ({"files": []}, "files"),
        ({"files": {"x": 1}}, r"files\.x .*1"),
        ({"files": {"x": {"sha256": "abc"}}}, r"files\.x\.sha256 .*'abc'"),
        ({"components": {"detector": 1}}, r"components\.detector .*1"),
        ({"components": {"detector": {"path": "a\0b", "name": "n"}}}, r"components\.detector\.path"),
        ({"components": {"detector": {"path": ".", "name": "n"}}}, "outside the set"),
        ({"components": {"detector": {"path": "base/../../x", "name": "n"}}}, "outside the set"),
        ({"components": {"detector": {"path": "/etc/passwd", "name": "n"}}}, "outside the set"),
        ({"default_negative_prompt": ["x" * 10_000]}, "default_negative_prompt"),
    ],
)
def test_a_value_that_makes_no_sense_is_reported_by_field(
    folder: Path, changes: dict[str, Any], problem: str
) -> None:
    write_manifest(folder, **changes)
    with pytest.raises(StartupError, match=rf"^MODEL_SET=.*{problem}") as caught:
        ModelSet.open(str(folder))
    assert len(str(caught.value)) < 500


def test_links_in_a_circle_are_a_clear_error(folder: Path) -> None:
    (folder / "detector.safetensors").unlink()
    (folder / "detector.safetensors").symlink_to("circle")
    (folder / "circle").symlink_to("detector.safetensors")
    with pytest.raises(StartupError, match="MODEL_SET"):
        ModelSet.open(str(folder)).verify(NetworkRole.FACE_DETECTOR)


def test_the_home_folder_is_found_where_a_shell_did_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert ModelSet.open("~/set").name == "small"
    with pytest.raises(StartupError, match="MODEL_SET=~nobody-of-that-name/set"):
        ModelSet.open("~nobody-of-that-name/set")


def test_a_file_that_shrinks_while_it_is_copied_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system: the size is larger than what can be read."""
    real = os.fstat

    def larger(descriptor: int) -> os.stat_result:
        result = real(descriptor)
        return os.stat_result((*result[:6], result.st_size + 1, *result[7:10]))

    monkeypatch.setattr(os, "fstat", larger)
    with pytest.raises(CheckpointError, match=r"it was cut to \d+ of \d+ bytes"):
        take(folder / "detector.safetensors")
