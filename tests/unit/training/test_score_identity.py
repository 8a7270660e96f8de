"""`training.score_identity` on a folder of photographs: what it leaves out, and when it does not begin."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest

from atelier_restorer.settings import RestorerSettings
from training.score_identity import all_trials, drawn_faces, faces_of, photographs

DEMO = RestorerSettings(model_set="demo", device="cpu", dtype="float32")


def test_hidden_files_and_folders_are_no_photographs(tmp_path: Path) -> None:
    for name in ("a.jpg", "._a.jpg", "of/b.PNG", ".cache/c.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "album.png").mkdir()
    assert photographs(tmp_path) == [tmp_path / "a.jpg", tmp_path / "of/b.PNG"]


def test_what_can_never_be_enough_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^--photos \S+/nowhere is not a folder$"):
        faces_of(tmp_path / "nowhere", 750)
    with pytest.raises(SystemExit, match=r"^no photographs in "):
        faces_of(tmp_path, 750)
    with pytest.raises(SystemExit, match=r"^--count 29: too few; at least 30 "):
        faces_of(None, 29)
    assert list(faces_of(None, 30)) == list(range(30))
    for number in range(29):
        (tmp_path / f"{number}.png").write_bytes(b"")
    with pytest.raises(SystemExit, match=r": 29 photographs: too few; at least 30 "):
        faces_of(tmp_path, 750)
    (tmp_path / "last.png").write_bytes(b"")
    assert len(faces_of(tmp_path, 750)) == 30


def test_a_file_that_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    for number, face in enumerate(drawn_faces(range(3), 0)):
        framed = cv2.copyMakeBorder(face, *(200,) * 4, cv2.BORDER_REPLICATE)
        cv2.imwrite(str(tmp_path / f"{number}.png"), framed[:, :, ::-1])
    broken, gone = tmp_path / "0a_broken.jpg", tmp_path / "0b_gone.jpg"
    broken.write_bytes(b"not a picture")
    trials = all_trials(DEMO, sorted([*photographs(tmp_path), gone]), seed=0, jobs=1)
    assert len(trials) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": left out: ")[0] for line in lines if "left out" in line] == [str(broken), str(gone)]
    assert f"{gone}: left out: No such file or directory" in lines
