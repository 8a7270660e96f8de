"""The README's examples, as a reader would paste them; only the ports are those of the test's processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.processes import Atelier, program

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The one code block of a language that contains a text."""
    [found] = [
        text
        for text in re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
        if containing in text
    ]
    return found


def run(atelier: Atelier, folder: Path, command: list[str], text: str) -> str:
    for public, here in (
        ("127.0.0.1:7860", atelier.url.removeprefix("http://")),
        ("127.0.0.1:50052", atelier.restorer),
        (".venv/bin/", f"{Path(sys.executable).parent}/"),
        ("docs/", f"{ROOT / 'docs'}/"),
    ):
        text = text.replace(public, here)
    done = subprocess.run(
        [*command, text], cwd=folder, capture_output=True, text=True, timeout=300, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(atelier: Atelier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the portrait.png of the first example."""
    program("curl")
    made = tmp_path_factory.mktemp("reader")
    run(atelier, made, ["bash", "-ec"], block("sh", "> portrait.png"))
    return made


def test_the_first_curl_leaves_a_portrait_on_disk(folder: Path) -> None:
    with Image.open(folder / "portrait.png") as image:
        assert (image.format, image.size) == ("PNG", (1024, 1024))


def test_the_json_example_answers(atelier: Atelier, folder: Path) -> None:
    run(atelier, folder, ["bash", "-ec"], block("sh", "answer.json"))
    answer = json.loads((folder / "answer.json").read_text())
    assert answer["success"] is True and answer["final_resolution"] == "1536x1536"


def test_the_restorer_is_called_from_python(atelier: Atelier, folder: Path) -> None:
    run(atelier, folder, [sys.executable, "-c"], block("python", "RestoreFaces"))
    with Image.open(folder / "restored.png") as image:
        assert image.size == (768, 768)


def test_a_picture_is_restored_by_a_plan_from_the_command_line(atelier: Atelier, folder: Path) -> None:
    run(atelier, folder, ["bash", "-ec"], block("sh", "compare docs/ruined.png"))
    assert {path.name for path in (folder / "sweep").iterdir()} == {
        f"ruined_w{w}.png" for w in ("0", "0.3", "0.6", "1")
    }
    for name in ("restored.png", "mask.png"):
        with Image.open(folder / name) as image:
            assert image.size == (768, 768), name
    assert len(list((folder / "crops").iterdir())) == 2


def test_a_folder_is_restored_from_the_command_line(atelier: Atelier, folder: Path) -> None:
    (folder / "photos" / "monday").mkdir(parents=True)
    shutil.copy(folder / "portrait.png", folder / "photos" / "monday")
    run(atelier, folder, ["bash", "-ec"], block("sh", "photos_restored --report"))
    with Image.open(folder / "photos_restored/monday/portrait.png") as image:
        assert image.size == (1024, 1024)
    assert len(json.loads((folder / "report.json").read_text())["pictures"]) == 1


def test_the_restorer_is_called_by_grpcurl(atelier: Atelier, folder: Path) -> None:
    told = json.loads(run(atelier, folder, ["bash", "-ec"], block("sh", "DetectFaces")))
    assert (told["width_px"], told["height_px"]) == (768, 768) and len(told["faces"]) == 1


def test_every_make_target_and_file_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
