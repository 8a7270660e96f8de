"""What a drawing says of itself, in every format and however it was made."""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import replace

import pytest
from PIL import Image

from atelier_gateway.core.generate import Generate
from atelier_gateway.core.recipe import started_from
from atelier_gateway.core.values import (
    GeneratedImage,
    GenerateSpec,
    Generation,
    HiresPass,
    Lora,
    OnImage,
    OnProgress,
)
from atelier_runtime.errors import InternalError
from atelier_runtime.images import Format
from atelier_runtime.recipes import COMPOSITE, DRAWN, FoundMarks, infotext, read_marks
from atelier_runtime.recipes.drawing import Drawing
from tests.unit.gateway.core.fakes import FakeGenerator, FakeRestorer


class Chain:
    def __init__(self) -> None:
        self.generator, self.restorer = FakeGenerator(), FakeRestorer()

    async def run(self, spec: GenerateSpec) -> list[Generation]:
        generate = Generate(self.generator, self.restorer, max_pixels=2**22)
        return await generate.run(spec, deadline=time.monotonic() + 100)

    async def marks(self, spec: GenerateSpec) -> FoundMarks:
        [generation] = await self.run(spec)
        return read_marks(generation.image.data)


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("restore_faces", [False, True])
async def test_every_file_has_its_recipe(chain: Chain, file_format: Format, restore_faces: bool) -> None:
    spec = GenerateSpec("a fox", output_format=file_format, restore_faces=restore_faces, fidelity=0.25)
    [generation] = await chain.run(spec)
    found = read_marks(generation.image.data)
    assert found.recipe is not None and found.infotext is not None
    assert found.infotext == generation.infotext
    assert found.source_type == DRAWN
    request = found.recipe["request"]
    assert (request["prompt"], request["seed"], request["num_inference_steps"]) == ("a fox", 7, 30)
    assert (request["sampler"], request["schedule"], request["guidance_scale"]) == ("euler", "default", 7.5)
    assert (request["width"], request["height"]) == (1024, 1024)
    assert request["use_face_restoration"] is restore_faces
    assert request["output_format"] == file_format
    if restore_faces:
        assert request["face_restoration_weight"] == 0.25
        assert found.recipe["restoration"]["faces"] == [
            {"box": [1, 2, 11, 12], "restored": True, "fidelity": 0.25}
        ]
    read = infotext.read(found.infotext)
    assert read["Prompt"] == "a fox"
    assert (read["Sampler"], read["Schedule type"], read["Seed"]) == ("Euler", "Automatic", "7")
    assert (read["Size-1"], read["Size-2"], read["CFG scale"]) == ("1024", "1024", "7.5")
    assert ("Face restoration" in read) is restore_faces


async def test_what_the_gateway_encodes_has_one_too(chain: Chain) -> None:
    chain.restorer.error = InternalError("a bug")
    found = await chain.marks(GenerateSpec("x", output_format="webp"))
    assert found.recipe is not None
    assert found.recipe["restoration"]["applied"] is False
    assert found.recipe["restoration"]["reason"] == "failed"
    assert "restorer_failed" in found.recipe["warnings"]


async def test_each_of_several_images_says_which_it_is(chain: Chain) -> None:
    generations = await chain.run(GenerateSpec("x", num_images=3, width=256, height=256))
    recipes = [read_marks(each.image.data).recipe or {} for each in generations]
    assert [recipe["image"] for recipe in recipes] == [[1, 3], [2, 3], [3, 3]]
    assert [recipe["seed"] for recipe in recipes] == [7, 8, 9]
    assert [recipe["request"]["seed"] for recipe in recipes] == [7, 7, 7]
    assert [infotext.read(each.infotext)["Seed"] for each in generations] == ["7", "8", "9"]


async def test_without_metadata_the_file_is_as_the_service_sent_it(chain: Chain) -> None:
    for restore_faces in (False, True):
        spec = GenerateSpec("x", restore_faces=restore_faces, metadata="none")
        [generation] = await chain.run(spec)
        found = read_marks(generation.image.data)
        assert (found.recipe, found.infotext, found.source_type, found.items) == (None, None, None, {})
        assert generation.infotext == ""


async def test_files_that_it_started_from_are_named_by_their_hash(chain: Chain) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (256, 264)).save(buffer, "PNG")
    image = buffer.getvalue()
    found = await chain.marks(GenerateSpec("x", image=image, mask=b"m", restore_faces=False))
    assert found.recipe is not None
    assert found.recipe["started_from"] == {
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "mask_sha256": hashlib.sha256(b"m").hexdigest(),
    }
    assert "width" not in found.recipe["request"]
    assert found.recipe["request"]["mask_kind"] == "white"


async def test_passes_and_loras_are_in_the_infotext(chain: Chain) -> None:
    chain.generator.upscaler = "lanczos"
    hires = GenerateSpec("x", hires_pass=HiresPass(512, 768, 0.5, 12), width=256, height=384)
    read = infotext.read((await chain.marks(hires)).infotext or "")
    assert (read["Size-1"], read["Hires resize-2"], read["Hires steps"]) == ("256", "768", "12")
    assert (read["Denoising strength"], read["Hires upscaler"]) == ("0.5", "lanczos")
    read = infotext.read((await chain.marks(GenerateSpec("x", hires_fix=True))).infotext or "")
    assert (read["Size-1"], read["Hires upscale"], read["Denoising strength"]) == ("768", "2", "0.35")
    found = await chain.marks(GenerateSpec("a, b:c", loras=(Lora("ink", 0.5), Lora("oil"))))
    assert infotext.read(found.infotext or "")["Prompt"] == "a, b:c <lora:ink:0.5> <lora:oil:1>"
    loras = (found.recipe or {})["request"]["loras"]
    assert [(each["name"], each["weight"]) for each in loras] == [("ink", 0.5), ("oil", 1.0)]


async def test_a_factor_of_enlargement_is_there_once_with_all_that_enlarged(chain: Chain) -> None:
    chain.generator.upscaler = "lanczos"
    chain.restorer.upscaler = "realesrgan"
    simple = GenerateSpec("x", lanczos_scale=1.5, restore_faces=False, width=256, height=256)
    read = infotext.read((await chain.marks(simple)).infotext or "")
    assert (read["Postprocess upscale by"], read["Postprocess upscaler"]) == ("1.5", "lanczos")
    written = (await chain.marks(replace(simple, upscale=2))).infotext or ""
    assert written.count("Postprocess upscale by") == 1
    read = infotext.read(written)
    assert (read["Postprocess upscale by"], read["Postprocess upscaler"]) == ("3", "lanczos + realesrgan")


async def test_the_restorer_s_network_is_named_if_it_has_restored_a_face(chain: Chain) -> None:
    chain.restorer.error = InternalError("a bug")
    read = infotext.read((await chain.marks(GenerateSpec("x"))).infotext or "")
    assert "Face restoration" not in read
    chain.restorer.error = None
    chain.restorer.applied = False
    read = infotext.read((await chain.marks(GenerateSpec("x", fidelity=0.5))).infotext or "")
    assert "Face restoration" not in read
    chain.restorer.applied = True
    read = infotext.read((await chain.marks(GenerateSpec("x", fidelity=0.5))).infotext or "")
    assert read["Face restoration"] == "CodeFormer"


@pytest.mark.parametrize(("strength", "source_type"), [(0.0, COMPOSITE), (0.01, DRAWN)])
async def test_what_is_only_reproduced_is_not_said_to_be_drawn(strength: float, source_type: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (256, 264)).save(buffer, "PNG")
    spec = GenerateSpec("x", image=buffer.getvalue(), strength=strength, restore_faces=False)
    drawing = Drawing(
        request={"strength": strength}, seed=7, number=1, images=1, model_set="demo", model_set_hash="",
        device="", size=(256, 264), started_from=started_from(spec),
    )  # fmt: skip
    assert drawing.source_type == source_type
    assert replace(drawing, refiner_applied=True).source_type == DRAWN


class BrokenGenerator(FakeGenerator):
    """Sends something other than a file."""

    async def generate(
        self, spec: GenerateSpec, on_image: OnImage, on_progress: OnProgress, *, deadline: float
    ) -> None:
        async def broken(number: int, generated: GeneratedImage) -> None:
            await on_image(number, replace(generated, image=replace(generated.image, data=b"no file")))

        await super().generate(spec, broken, on_progress, deadline=deadline)


async def test_a_file_that_is_none_is_an_error_of_the_service(chain: Chain) -> None:
    chain.generator = BrokenGenerator()
    with pytest.raises(InternalError, match="not a PNG file"):
        await chain.run(GenerateSpec("x", restore_faces=False))
