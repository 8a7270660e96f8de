"""The commands of the README and the docs, as a reader would paste them; only the ports differ."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from atelier_runtime.api_keys import Scope, read_keys
from tests.docs.conftest import Run
from tests.docs.pages import block
from tests.processes import Atelier


@pytest.fixture(scope="module")
def portrait(run: Run, folder: Path) -> Path:
    """The image of the README's first command."""
    run("first curl")
    return folder / "portrait.png"


def test_the_first_curl_leaves_a_portrait_on_disk(portrait: Path) -> None:
    with Image.open(portrait) as image:
        assert (image.format, image.size) == ("PNG", (1024, 1024))


def test_the_first_job_is_done_when_curl_returns(run: Run, folder: Path) -> None:
    run("first job")
    job = json.loads((folder / "first_job.json").read_text())
    assert job["status"] == "completed" and job["result"]["seed"] == 6


def test_generate_responds_with_json(run: Run, folder: Path) -> None:
    run("generate")
    response = json.loads((folder / "response.json").read_text())
    assert response["success"] is True and response["final_resolution"] == "1536x1536"


def test_an_image_is_drawn_anew_in_whole_and_in_part(run: Run, folder: Path, portrait: Path) -> None:
    with Image.open(portrait) as image:
        drawn = image.convert("RGB")
    mask = Image.new("L", drawn.size)
    mask.paste(255, (256, 320, 768, 576))
    mask.save(folder / "eyes.png")
    run("from image")
    with Image.open(folder / "older.png") as older, Image.open(folder / "glasses.png") as glasses:
        assert older.size == glasses.size == drawn.size
        changed = ImageChops.difference(glasses, drawn).convert("L").getbbox()
        assert changed is not None
        left, top, right, bottom = changed
        assert left >= 256 and top >= 320 and right <= 768 and bottom <= 576


def test_a_photo_is_detected_compared_and_restored(run: Run, folder: Path, portrait: Path) -> None:
    run("photos")
    assert json.loads((folder / "faces.json").read_text())["faces"]
    comparison = json.loads((folder / "comparison.json").read_text())
    assert [result["fidelity"] for result in comparison["results"]] == [0.2, 0.6, 1.0]
    with Image.open(folder / "restored.png") as image:
        assert (image.format, image.size) == ("PNG", (1024, 1024))


def test_a_picture_says_how_it_was_made(run: Run, folder: Path, portrait: Path) -> None:
    run("inspect")
    said = json.loads((folder / "said.json").read_text())
    assert (said["recipe"]["kind"], said["recipe"]["request"]["seed"]) == ("drawing", 6)
    offline = json.loads((folder / "said_offline.json").read_text())
    assert offline["infotext"] == said["infotext"]


def test_jobs_are_submitted_followed_and_used_again(run: Run, folder: Path) -> None:
    run("jobs")
    for name in ("job", "again"):
        assert json.loads((folder / f"{name}.json").read_text())["status"] == "completed", name
    assert json.loads((folder / "photo_job.json").read_text())["type"] == "restore"
    assert (folder / "events.txt").read_text().startswith("event: snapshot")
    with Image.open(folder / "final.png") as final, Image.open(folder / "drawn.png") as drawn:
        assert final.size == drawn.size == (1024, 1024)
        assert ImageChops.difference(final.convert("RGB"), drawn.convert("RGB")).getbbox() is not None


def test_openais_interface_draws_and_edits(run: Run, folder: Path) -> None:
    run("openai")
    run("openai edits")
    for name in ("apple", "edited"):
        with Image.open(folder / f"{name}.png") as image:
            assert (image.format, image.size) == ("PNG", (512, 512)), name
    models = json.loads((folder / "models.json").read_text())
    assert models["object"] == "list" and len(models["data"]) == 1


def test_the_example_of_openais_sdk(folder: Path, atelier: Atelier) -> None:
    text = block("docs/openai.md", "python").replace("http://127.0.0.1:7860", atelier.url)
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "portrait_sdk.png") as image:
        assert image.size == (512, 512)
    assert done.stdout.splitlines()[-1] == "image_generation.completed"


def test_a_key_is_made(run: Run, folder: Path) -> None:
    run("keys")
    [key] = read_keys(folder / "keys.toml").values()
    assert (key.name, key.scopes, key.requests_per_minute) == ("photo-team", frozenset({Scope.RESTORE}), 60)


def test_an_image_is_restored_by_a_plan_from_the_command_line(run: Run, folder: Path) -> None:
    run("plan")
    assert {path.name for path in (folder / "sweep").iterdir()} == {
        f"ruined_w{w}.png" for w in ("0", "0.3", "0.6", "1")
    }
    for name in ("restored.png", "mask.png"):
        with Image.open(folder / name) as image:
            assert image.size == (768, 768), name
    assert len(list((folder / "crops").iterdir())) == 2


def test_a_folder_is_restored_from_the_command_line(run: Run, folder: Path, portrait: Path) -> None:
    (folder / "photos" / "monday").mkdir(parents=True)
    shutil.copy(portrait, folder / "photos" / "monday")
    run("folders")
    with Image.open(folder / "photos_restored/monday/portrait.png") as image:
        assert image.size == (1024, 1024)
    assert len(json.loads((folder / "report.json").read_text())["pictures"]) == 1


def test_an_archive_is_restored_by_jobs(run: Run, folder: Path) -> None:
    (folder / "archive").mkdir()
    for number in range(2):
        shutil.copy(folder / "docs/ruined.png", folder / "archive" / f"{number}.png")
    assert len(run("archive").splitlines()) == 2
    (folder / "archive_restored/1.png").unlink()
    [again] = map(json.loads, run("archive").splitlines())
    assert again["output"].endswith("1.png") and again["faces"][0]["restored"]
    with Image.open(folder / "archive_restored/1.png") as image:
        assert image.size == (768, 768)


def test_the_restorer_is_called_by_grpcurl(run: Run) -> None:
    response = json.loads(run("grpcurl"))
    assert (response["width_px"], response["height_px"]) == (768, 768) and len(response["faces"]) == 1
