"""`make models` and what goes wrong on the way: nothing half-written, false or malicious becomes a model."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError
from atelier_runtime.weights import ModelSet
from tests.file_server import Fault, FileServer, file_server
from tests.tiny_catalogue import published_files, write_catalog
from tools.models.__main__ import main
from tools.models.download import ATTEMPTS

FILES = published_files()
PLACE = "/faces/detector.pth"
SIZE = len(FILES[PLACE])
HALF = SIZE // 2
Run = Callable[[], int]


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as served:
        served.files |= FILES
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "set"


@pytest.fixture
def run(server: FileServer, folder: Path) -> Run:
    """Fetch the detector."""
    catalog = write_catalog(folder.parent / "catalogue.toml", server)
    command = ["--to", str(folder), "--catalogue", str(catalog), "--only", "detector", "--retry-pause", "0"]
    return lambda: main(command)


def assert_no_model(folder: Path) -> None:
    """No manifest, and nothing under a name that a later run or a service would take for good."""
    assert not (folder / "manifest.json").exists()
    assert not (folder / "detector.safetensors").exists()
    assert not (folder / "detector.pth").exists()
    with pytest.raises(StartupError):
        ModelSet.open(str(folder))


def assert_complete(folder: Path) -> None:
    model_set = ModelSet.open(str(folder))
    assert model_set.component(NetworkRole.FACE_DETECTOR) is not None
    model_set.verify(NetworkRole.FACE_DETECTOR)


def test_a_cut_connection_is_resumed_where_it_broke(run: Run, server: FileServer, folder: Path) -> None:
    server.faults[PLACE] = [Fault(cut_after=HALF), Fault(cut_after=100)]
    assert run() == 0
    assert_complete(folder)
    first, second, third = server.ranges_of(PLACE)
    assert first is None
    assert second == f"bytes={HALF}-" and third == f"bytes={HALF + 100}-"


def test_a_run_that_gave_up_is_continued_by_the_next(
    run: Run, server: FileServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults[PLACE] = [Fault(cut_after=HALF), *[Fault(status=503)] * ATTEMPTS]
    assert run() == 1
    err = capsys.readouterr().err
    assert (
        f"gave up after {ATTEMPTS} attempts" in err and "503" in err and "run the same command again" in err
    )
    assert_no_model(folder)
    assert (folder / "detector.pth.part").stat().st_size == HALF
    server.received.clear()
    assert run() == 0
    assert server.ranges_of(PLACE) == [f"bytes={HALF}-"]
    assert_complete(folder)


@pytest.mark.parametrize(
    ("second", "requests"),
    [
        (Fault(ranges=False), 2),  # what it sends then is taken
        (Fault(status=416), 3),
        (Fault(headers=(("Content-Range", f"bytes 0-{SIZE - 1}/{SIZE}"),)), 3),
        (Fault(headers=(("Content-Range", f"bytes {HALF}-{SIZE + 4}/{SIZE + 5}"),)), 3),
    ],
    ids=["ignores Range", "416", "another start", "another size"],
)
def test_a_server_that_cannot_continue_sends_all_of_it(
    run: Run, server: FileServer, folder: Path, second: Fault, requests: int
) -> None:
    server.faults[PLACE] = [Fault(cut_after=HALF), second]
    assert run() == 0
    assert server.ranges_of(PLACE) == [None, f"bytes={HALF}-", None][:requests]
    assert_complete(folder)


def test_without_a_name_of_the_version_it_is_continued_all_the_same(
    run: Run, server: FileServer, folder: Path
) -> None:
    """Networks that deliver files send neither ETag nor Last-Modified; the SHA-256 is known beforehand."""
    cut = SIZE // 10
    server.faults[PLACE] = [Fault(cut_after=cut, etag=False)] * 9
    assert run() == 0
    assert server.ranges_of(PLACE) == [None, *(f"bytes={cut * n}-" for n in range(1, 10))]
    assert all(request.if_range is None for request in server.received)
    assert_complete(folder)


def test_a_file_that_changed_between_attempts_is_not_pieced_together(
    run: Run, server: FileServer, folder: Path
) -> None:
    server.files[PLACE] = bytes(SIZE)  # another version, of the same size
    server.faults[PLACE] = [Fault(cut_after=HALF), *[Fault(status=503)] * ATTEMPTS]
    assert run() == 1
    server.files[PLACE] = FILES[PLACE]
    server.received.clear()
    assert run() == 0
    assert server.ranges_of(PLACE) == [f"bytes={HALF}-", None], "all of it, since the checksum was wrong"
    assert_complete(folder)


def test_a_part_that_was_damaged_on_disk_is_fetched_again(run: Run, server: FileServer, folder: Path) -> None:
    server.faults[PLACE] = [Fault(cut_after=HALF), *[Fault(status=503)] * ATTEMPTS]
    assert run() == 1
    (folder / "detector.pth.part").write_bytes(bytes(HALF))
    server.received.clear()
    assert run() == 0
    assert server.ranges_of(PLACE) == [f"bytes={HALF}-", None]
    assert_complete(folder)


def test_a_wrong_checksum_leaves_nothing_and_names_file_expected_and_got(
    run: Run, server: FileServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = FILES[PLACE][:-1] + b"\x01"
    server.files[PLACE] = forged
    for _ in range(2):
        assert run() == 1
        err = capsys.readouterr().err
        assert "detector.pth: wrong checksum" in err
        assert hashlib.sha256(FILES[PLACE]).hexdigest() in err and hashlib.sha256(forged).hexdigest() in err
        assert_no_model(folder)
        assert not (folder / "detector.pth.part").exists()
    server.files[PLACE] = FILES[PLACE]
    assert run() == 0
    assert_complete(folder)


@pytest.mark.parametrize("change", [-1, 1], ids=["short", "long"])
def test_a_file_of_another_size_is_refused_before_it_is_fetched(
    run: Run, server: FileServer, folder: Path, capsys: pytest.CaptureFixture[str], change: int
) -> None:
    server.files[PLACE] = bytes(SIZE + change)
    assert run() == 1
    assert f"offers {SIZE + change} bytes, the catalog says {SIZE}" in capsys.readouterr().err
    assert_no_model(folder)
    assert not (folder / "detector.pth.part").exists()


def test_a_missing_file_is_told_at_once(
    run: Run, server: FileServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del server.files[PLACE]
    assert run() == 1
    assert f"{server.url}{PLACE}: the server returned 404" in capsys.readouterr().err
    assert len(server.ranges_of(PLACE)) == 1
    assert_no_model(folder)


def test_a_compressed_answer_is_refused(
    run: Run, server: FileServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults[PLACE] = [Fault(headers=(("Content-Encoding", "gzip"),))]
    assert run() == 1
    assert "another encoding" in capsys.readouterr().err
    assert_no_model(folder)


class Malicious:
    """A pickle that makes a file when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_pickle_is_not_run_and_is_reported(
    server: FileServer, folder: Path, capsys: pytest.CaptureFixture[str], protocol: int
) -> None:
    canary = folder.parent / "canary"
    content = pickle.dumps({"params_ema": Malicious(canary)}, protocol=protocol)
    server.files[PLACE] = content
    catalog = write_catalog(folder.parent / "evil.toml", server)  # the checksum is its own: it fits
    assert main(["--to", str(folder), "--catalogue", str(catalog), "--only", "detector"]) == 1
    assert not canary.exists()
    err = capsys.readouterr().err
    assert "arbitrary code" in err and "mkdir" in err and f"{server.url}{PLACE}" in err
    assert_no_model(folder)
    pickle.loads(content)  # it would have
    assert canary.is_dir()


def test_a_failed_change_of_a_complete_set_leaves_no_manifest(
    run: Run, server: FileServer, folder: Path
) -> None:
    assert run() == 0
    (folder / "detector.safetensors").write_bytes(b"damaged")
    server.faults[PLACE] = [Fault(cut_after=HALF), *[Fault(status=503)] * ATTEMPTS]
    assert run() == 1
    assert not (folder / "manifest.json").exists()
    assert run() == 0
    assert_complete(folder)
