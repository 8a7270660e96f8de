"""A restored photo says which faces a network made, and keeps what it said before."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_runtime.images import Format, decode
from atelier_runtime.recipes import COMPOSITE, DRAWN, Marks, mark, read_marks
from tests.integration.restorer_command import RunHere, run_at_service
from tests.integration.restorer_server import Client, photo, pixels, png

KINDS: dict[str, Format] = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp"}
CAPTURED = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
OWN_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4" '
    b'xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><e:DigitalSourceType>'
    + CAPTURED.encode()
    + b"</e:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def exif_of_a_camera() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x9286] = "a comment"
    return exif.tobytes()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
async def test_which_faces_are_restored_and_with_what(restorer: Client, file_format: str) -> None:
    file = (
        png(photo(), file_format, exif=exif_of_a_camera(), xmp=OWN_XMP)
        if file_format != "PNG"
        else png(photo(), exif=exif_of_a_camera())
    )
    response = await restorer.restore(file, fidelity=0.25, return_mask=True)
    data = response.image.data
    found = read_marks(data)
    assert found.source_type == COMPOSITE
    recipe = found.recipe
    assert recipe is not None
    assert (recipe["kind"], recipe["request"]["fidelity"]) == ("restoration", 0.25)
    assert recipe["model_set"] == {"name": response.model_set, "hash": response.model_set_hash}
    assert len(response.model_set_hash) == 64 and recipe["device"] == response.restored_on
    assert [face["restored"] for face in recipe["faces"]] == [each.restored for each in response.faces]
    assert any(face["restored"] for face in recipe["faces"])
    box = response.faces[0].face.box
    assert recipe["faces"][0]["box"] == pytest.approx([box.x1_px, box.y1_px, box.x2_px, box.y2_px], abs=0.01)
    mask = hashlib.sha256(pixels(response.mask).tobytes()).hexdigest()
    assert recipe["mask_sha256"] == response.mask_sha256 == mask
    before, after = decode(file, max_pixels=10**6), decode(data, max_pixels=10**6)
    assert after.exif == before.exif, "byte for byte"
    if file_format != "PNG":
        assert found.items["XMP:Rating"] == "4"
        assert CAPTURED.encode() not in data


async def test_nothing_is_said_that_is_not_wanted(restorer: Client) -> None:
    file = png(photo(), "JPEG", exif=exif_of_a_camera(), xmp=OWN_XMP)
    plain = await restorer.restore(
        file, max_faces=1, output=image_pb2.OutputOptions(metadata=image_pb2.METADATA_NONE)
    )
    found = read_marks(plain.image.data)
    assert (found.recipe, found.source_type) == (None, CAPTURED)
    assert plain.mask_sha256 == ""
    told = await restorer.restore(file, max_faces=1)
    assert (pixels(told.image) == pixels(plain.image)).all()
    assert read_marks(told.image.data).items["EXIF:Make"] == found.items["EXIF:Make"] == "a camera"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
async def test_what_atelier_said_earlier_goes_too(restorer: Client, file_format: str) -> None:
    kind = KINDS[file_format]
    infotext = "a secret\nSteps: 1, Seed: 3, Version: Atelier 0.2.0"
    drawing = {"kind": "drawing", "request": {"prompt": "a secret" + "!" * 70_000}}
    plain = png(photo(), file_format)
    drawn = mark(plain, kind, Marks(drawing, infotext, DRAWN))
    told = (await restorer.restore(drawn, max_faces=1)).image.data
    assert read_marks(told).infotext == infotext
    silent = image_pb2.OutputOptions(metadata=image_pb2.METADATA_NONE)
    expected = (await restorer.restore(plain, max_faces=1, output=silent)).image.data
    for file in (drawn, told):
        found = (await restorer.restore(file, max_faces=1, output=silent)).image.data
        assert b"secret" not in found and read_marks(found).source_type is None
        assert file is told or found == expected, "as if it had said nothing"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
async def test_what_others_said_stays(restorer: Client, file_format: str) -> None:
    kind = KINDS[file_format]
    file = mark(png(photo(), file_format), kind, Marks(infotext="a fox\nSteps: 1", source_type=DRAWN))
    told = (await restorer.restore(file, max_faces=1)).image.data
    silent = image_pb2.OutputOptions(metadata=image_pb2.METADATA_NONE)
    for each in (file, told):
        found = read_marks((await restorer.restore(each, max_faces=1, output=silent)).image.data)
        assert (found.recipe, found.infotext, found.source_type) == (None, "a fox\nSteps: 1", DRAWN)


async def test_a_photo_that_no_network_changed_is_no_composite(restorer: Client) -> None:
    file = png(photo(), "JPEG", xmp=OWN_XMP)
    response = await restorer.restore(file, max_faces=0)
    found = read_marks(response.image.data)
    assert (found.source_type, response.mask_sha256) == (CAPTURED, "")
    assert found.recipe is not None and found.recipe["faces"] == []


async def test_a_drawing_that_is_restored_keeps_its_recipe_and_stays_a_drawing(restorer: Client) -> None:
    drawing = {"kind": "drawing", "seed": 3}
    file = mark(png(photo()), "png", Marks(drawing, "a fox\nSteps: 1", DRAWN))
    once = (await restorer.restore(file, max_faces=1)).image.data
    twice = read_marks((await restorer.restore(once, max_faces=1)).image.data)
    assert twice.recipe is not None
    assert twice.recipe["kind"] == twice.recipe["of"]["kind"] == "restoration"
    assert twice.recipe["of"]["of"] == drawing
    assert (twice.infotext, twice.source_type) == ("a fox\nSteps: 1", DRAWN)


@pytest.mark.parametrize("file_format", [image_pb2.IMAGE_FORMAT_JPEG, image_pb2.IMAGE_FORMAT_WEBP])
async def test_the_infotext_of_a_drawing_is_kept_in_other_formats(
    restorer: Client, file_format: image_pb2.ImageFormat
) -> None:
    text = "ein Füchslein 狐\nSteps: 2, Sampler: Euler, Seed: 3"
    file = mark(png(photo()), "png", Marks({"kind": "drawing"}, text, DRAWN))
    options = image_pb2.OutputOptions(format=file_format)
    found = read_marks((await restorer.restore(file, max_faces=0, output=options)).image.data)
    assert (found.infotext, found.source_type) == (text, DRAWN)


async def test_an_earlier_recipe_that_cannot_be_written_again_is_none(restorer: Client) -> None:
    file = mark(png(photo(), "JPEG"), "jpeg", Marks({"kind": "drawing", "n": 7777777}, None, DRAWN))
    file = file.replace(b"7777777", b"1.0e999")
    found = read_marks((await restorer.restore(file, max_faces=1)).image.data)
    assert found.recipe is not None and "of" not in found.recipe
    assert (found.recipe["kind"], found.source_type) == ("restoration", DRAWN)


async def test_each_fidelity_of_a_comparison_is_told(restorer: Client) -> None:
    request = pb.CompareFidelitiesRequest(
        restore=pb.RestoreFacesRequest(image=image_pb2.Image(data=png(photo())), max_faces=1),
        fidelities=[0.0, 0.75],
    )
    recipes: list[Any] = []
    async for response in restorer.stub.CompareFidelities(request):
        recipes.append(read_marks(response.result.image.data).recipe)
    assert [recipe["faces"][0]["fidelity"] for recipe in recipes] == [0.0, 0.75]
    assert [recipe["request"]["fidelity"] for recipe in recipes] == [0.0, 0.75]
    assert len({recipe["mask_sha256"] for recipe in recipes}) == 1


async def test_the_command_says_it_or_not(restorer: Client, tmp_path: Path) -> None:
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(png(photo()))
    for metadata, kind in (("recipe", "restoration"), ("none", None)):
        done = await run_at_service(
            restorer, "restore", source, target, "--max-faces", 1, "--metadata", metadata
        )
        assert done.code == 0, done.err
        recipe = read_marks(target.read_bytes()).recipe
        assert (None if recipe is None else recipe["kind"]) == kind


def test_the_command_shows_what_pictures_say(run_here: RunHere, tmp_path: Path) -> None:
    picture, odd = tmp_path / "picture.png", tmp_path / "odd.png"
    picture.write_bytes(mark(png(np.zeros((4, 4, 3), np.uint8)), "png", Marks({"seed": 3}, "a fox", DRAWN)))
    odd.write_bytes(b"\x89PNG\r\n\x1a\n" + b"no")
    done = run_here("inspect", picture, odd)
    report, other = done.reports
    assert (other["recipe"], other["items"]) == (None, {})
    assert (report["recipe"], report["infotext"], report["source_type"]) == ({"seed": 3}, "a fox", DRAWN)
    assert report["picture"] == str(picture)
    assert json.dumps(report["parameters"]) == '{"Prompt": "a fox", "Negative prompt": ""}'


def test_a_picture_is_read_without_torch(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(mark(png(np.zeros((4, 4, 3), np.uint8)), "png", Marks({"seed": 3})))
    script = (
        "import sys\nfrom atelier_restorer.__main__ import main\n"
        "assert main(['inspect', sys.argv[1]]) == 0\n"
        "print(sorted({'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    report, imported = done.stdout.splitlines()
    assert json.loads(report)["recipe"] == {"seed": 3}
    assert imported == "[]"
