"""A gateway that signs: what it says of photos that come with content credentials of their own."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from atelier_gateway.core.signing import Claim
from atelier_gateway.credentials import Credentials, summary_of
from atelier_runtime import wire
from atelier_runtime.images import FORMATS, EncodedImage, Format, Picture, decode, encode, sniffed_format
from atelier_runtime.outcomes import ResponseWarning, WarningCode
from atelier_runtime.recipes import COMPOSITE, DRAWN, Marks, mark
from tests.certificates import make_chain
from tests.contract.script import MODEL_SET_HASH
from tests.contract.stack import Stack

PIXELS = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Credentials]]:
    chain = make_chain(tmp_path_factory.mktemp("chain"))
    stack = Stack(c2pa_certificate=chain.certificate, c2pa_key=chain.key)
    yield stack, Credentials(chain.certificate, chain.key)
    stack.close()


def photo(file_format: Format, signer: Credentials | None = None) -> bytes:
    plain = mark(encode(Picture(PIXELS), file_format, 90), file_format, Marks(source_type=DRAWN))
    return plain if signer is None else signer.sign(plain, file_format, Claim(DRAWN))


def broken(file: bytes) -> bytes:
    """Return the file with a manifest that is none."""
    place = file.index(b"jumd") + 4
    return file[:place] + b"\xff" * 40 + file[place + 40 :]


def edits(said: Any) -> list[Any]:
    """Return the actions after `c2pa.opened`: what each says, but for names and numbers of ours."""
    opened, *edits = said["actions"]
    assert opened["action"] == "c2pa.opened"
    return [(each["action"], each.get("digitalSourceType")) for each in edits]


def restored(stack: Stack, image: bytes, **fields: Any) -> Any:
    body = {"image": base64.b64encode(image).decode(), **fields}
    response = stack.client.post("/restore", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def said_of(answer: Any) -> Any:
    image = base64.b64decode(answer["image"].partition(",")[2])
    file_format = sniffed_format(image)
    assert file_format is not None
    return summary_of(image, file_format)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_photo_with_a_damaged_manifest_is_restored_and_signed_without_it(
    signing: tuple[Stack, Credentials], file_format: Format
) -> None:
    stack, signer = signing
    answer = restored(stack, broken(photo(file_format, signer)))
    said = said_of(answer)
    assert (said["state"], said["manifests"]) == ("Valid", 1)
    assert said["actions"][0]["action"] == "c2pa.opened"
    [message] = [each for each in answer["warnings"] if "cannot be read" in each]
    assert message.startswith("The content credentials (C2PA) of the image cannot be read")
    whole = restored(stack, photo(file_format, signer))
    assert said_of(whole)["manifests"] == 2
    assert not [each for each in whole["warnings"] if "cannot be read" in each]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_drawing_can_start_from_a_photo_with_a_damaged_manifest(
    signing: tuple[Stack, Credentials], file_format: Format
) -> None:
    stack, signer = signing
    image = base64.b64encode(broken(photo(file_format, signer))).decode()
    response = stack.generate(image=image)
    assert response.status_code == 200, response.text
    said = said_of(response.json())
    assert (said["state"], said["manifests"]) == ("Valid", 1)
    assert [each for each in response.json()["warnings"] if "credentials (C2PA) of the image" in each]


def test_a_manifest_of_several_segments_is_one(signing: tuple[Stack, Credentials]) -> None:
    _, signer = signing
    sets = tuple((f"{number}", "ab" * 32) for number in range(1_000))
    plain = encode(Picture(PIXELS), "jpeg", 90)
    signed = signer.sign(plain, "jpeg", Claim(DRAWN, model_sets=sets))
    assert signed.count(b"\xff\xeb") > 1
    assert decode(signed, max_pixels=10**6).dropped == (
        "Dropped from the file's metadata: content credentials (C2PA).",
    )


@pytest.mark.parametrize("source_type", [DRAWN, COMPOSITE, None])
def test_the_manifest_calls_a_picture_what_its_xmp_calls_it(
    signing: tuple[Stack, Credentials], source_type: str | None
) -> None:
    stack, _ = signing
    plain = encode(Picture(PIXELS), "png", 90)
    written = mark(plain, "png", Marks({}, source_type=source_type)) if source_type else b""
    stack.restorer.faces = [(0.9, True, None)]
    stack.restorer.image = wire.image_to_proto(EncodedImage(written, "png", 256, 256)) if written else None
    try:
        answer = restored(stack, photo("png"))
    finally:
        stack.restorer.image = None
    assert edits(said_of(answer)) == [("c2pa.edited", source_type or COMPOSITE)]


@pytest.mark.parametrize(("upscaler", "source_type"), [("demo_x2", COMPOSITE), ("lanczos", None)])
def test_only_what_a_network_enlarged_is_its_work(
    signing: tuple[Stack, Credentials], upscaler: str, source_type: str | None
) -> None:
    stack, _ = signing
    stack.restorer.result = {"upscaler": upscaler}
    try:
        said = said_of(restored(stack, photo("png"), upscale=2, max_faces=0))
    finally:
        stack.restorer.result = {}
    assert edits(said) == [("c2pa.resized", source_type)]
    sets = said["actions"][1].get("parameters", {}).get("com.atelier.model_sets")
    assert sets == ([{"name": "demo", "sha256": MODEL_SET_HASH}] if source_type else None)


@pytest.mark.parametrize(
    ("opened", "fields", "action"),
    [
        ("png", {"output_format": "png"}, None),
        ("webp", {"output_format": "webp", "quality": 100}, None),
        ("jpeg", {"output_format": "png"}, "c2pa.transcoded"),
        ("jpeg", {"output_format": "jpeg"}, "c2pa.transcoded"),
    ],
)
def test_only_what_was_transcoded_is_said_to_be(
    signing: tuple[Stack, Credentials], opened: Format, fields: dict[str, Any], action: str | None
) -> None:
    stack, _ = signing
    said = said_of(restored(stack, photo(opened), max_faces=0, **fields))
    assert said["state"] == "Valid"
    assert edits(said) == ([] if action is None else [(action, None)])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("content credentials (C2PA)", []),
        ("APP4, content credentials (C2PA)", ["APP4"]),
        ("content credentials (C2PA), APP4", ["APP4"]),
        ("APP4, content credentials (C2PA) and 2 more", ["APP4 and 2 more"]),
    ],
)
def test_credentials_that_are_kept_are_not_called_dropped(
    signing: tuple[Stack, Credentials], said: str, told: list[str]
) -> None:
    stack, signer = signing
    dropped = "Dropped from the file's metadata: {}."
    warning = ResponseWarning(WarningCode.METADATA_DROPPED, dropped.format(said))
    stack.restorer.result = {"warnings": wire.warnings_to_proto([warning])}
    try:
        kept = restored(stack, photo("png", signer))
        unsigned = restored(stack, photo("png", signer), metadata="none")
    finally:
        stack.restorer.result = {}
    assert kept["warnings"] == [dropped.format(each) for each in told]
    assert unsigned["warnings"] == [warning.message], "nothing keeps them there"
