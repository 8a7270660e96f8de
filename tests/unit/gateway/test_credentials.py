"""Signed pictures verify with their chain, and fail with one byte changed; bad settings are named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from atelier_gateway.core.signing import Claim
from atelier_gateway.credentials import Credentials, credentials_of, summary_of
from atelier_runtime.images import FORMATS, Format, Picture, decode, encode
from atelier_runtime.recipes import COMPOSITE, DRAWN, Marks, mark, read_marks
from atelier_runtime.settings import StartupError
from tests.certificates import Chain, make_chain, make_self_signed

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
FACES = ((10.0, 20.0, 30.5, 44.0), (50.0, 8.0, 70.0, 30.25))
EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
SETS = (("demo", "ab" * 32),)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return make_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def signer(chain: Chain) -> Credentials:
    return Credentials(chain.certificate, chain.key)


def marked(file_format: Format) -> bytes:
    plain = encode(Picture(PIXELS), file_format, 90)
    return mark(plain, file_format, Marks({"seed": 3}, "a fox\nSteps: 1", DRAWN))


def verified(file: bytes, file_format: Format, root: str) -> tuple[str | None, Any]:
    """What C2PA's own reader says of a file to somebody who trusts a root: the state, and the manifests."""
    trusting = {
        "trust": {"trust_anchors": root},
        "verify": {"verify_trust": True, "remote_manifest_fetch": False},
    }
    context = c2pa.Context(c2pa.Settings.from_dict(trusting))
    with context, c2pa.Reader(f"image/{file_format}", io.BytesIO(file), context=context) as reader:
        return reader.get_validation_state(), json.loads(reader.json())


def actions_of(store: Any) -> list[Any]:
    active = store["manifests"][store["active_manifest"]]
    [actions] = [each["data"]["actions"] for each in active["assertions"] if "actions" in each["label"]]
    return list(actions)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_signed_drawing_is_verified_with_its_root(
    signer: Credentials, chain: Chain, file_format: Format, tmp_path: Path
) -> None:
    file = marked(file_format)
    signed = signer.sign(file, file_format, Claim(DRAWN, model_sets=SETS))
    state, store = verified(signed, file_format, chain.root)
    assert state == "Trusted"
    [created] = actions_of(store)
    assert (created["action"], created["digitalSourceType"]) == ("c2pa.created", DRAWN)
    assert created["parameters"]["com.atelier.model_sets"] == [{"name": "demo", "sha256": "ab" * 32}]
    assert verified(signed, file_format, make_chain(tmp_path).root)[0] == "Valid", "signed by somebody else"
    before, after = read_marks(file), read_marks(signed)
    assert (after.recipe, after.infotext, after.source_type) == (
        *(before.recipe, before.infotext, before.source_type),
    )
    assert after.has_credentials and not before.has_credentials
    assert (decode(signed, max_pixels=10**4).rgb == decode(file, max_pixels=10**4).rgb).all()


@pytest.mark.parametrize("file_format", FORMATS)
def test_one_changed_byte_is_found_out(signer: Credentials, chain: Chain, file_format: Format) -> None:
    signed = bytearray(signer.sign(marked(file_format), file_format, Claim(DRAWN)))
    place = signed.index(b"atelier:Recipe>{") + 20
    signed[place] ^= 1
    assert verified(bytes(signed), file_format, chain.root)[0] == "Invalid"
    assert (summary_of(bytes(signed), file_format) or {})["state"] == "Invalid"


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_restored_photograph_names_its_faces_and_what_it_was(
    signer: Credentials, chain: Chain, file_format: Format
) -> None:
    photo = encode(Picture(PIXELS), "jpeg", 90)
    claim = Claim(COMPOSITE, photo, FACES, SETS, resized=True)
    signed = signer.sign(marked(file_format), file_format, claim)
    state, store = verified(signed, file_format, chain.root)
    assert state == "Trusted"
    opened, resized, edited = actions_of(store)
    assert [each["action"] for each in (opened, resized, edited)] == [
        *("c2pa.opened", "c2pa.resized", "c2pa.edited"),
    ]
    assert edited["digitalSourceType"] == COMPOSITE
    assert edited["parameters"]["com.atelier.restored_faces_px"] == [
        {"x": 10, "y": 20, "width": 20.5, "height": 24},
        {"x": 50, "y": 8, "width": 20, "height": 22.25},
    ]
    [shape, _] = [change["region"][0]["shape"] for change in edited["changes"]]
    assert (shape["type"], shape["unit"], shape["origin"]) == ("rectangle", "pixel", {"x": 10, "y": 20})
    [ingredient] = store["manifests"][store["active_manifest"]]["ingredients"]
    assert ingredient["relationship"] == "parentOf"


def test_the_manifest_of_a_file_that_was_opened_is_kept(signer: Credentials, chain: Chain) -> None:
    drawing = signer.sign(marked("png"), "png", Claim(DRAWN))
    signed = signer.sign(marked("webp"), "webp", Claim(COMPOSITE, drawing, FACES))
    state, store = verified(signed, "webp", chain.root)
    assert (state, len(store["manifests"])) == ("Trusted", 2)
    redrawn = signer.sign(marked("png"), "png", Claim(DRAWN, drawing, redrawn=True))
    assert [each["action"] for each in actions_of(verified(redrawn, "png", chain.root)[1])] == [
        *("c2pa.opened", "c2pa.edited"),
    ]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_stranger_s_broken_manifest_is_left_out(
    signer: Credentials, chain: Chain, file_format: Format
) -> None:
    stranger = signer.sign(marked(file_format), file_format, Claim(DRAWN))
    start = stranger.index(b"jumb")
    problems = []
    for place in range(start, start + 2500, 173):
        broken = bytearray(stranger)
        broken[place : place + 20] = b"\xff" * 20
        summary_of(bytes(broken), file_format)
        signed = signer.signed(marked("png"), "png", Claim(COMPOSITE, bytes(broken), FACES))
        state, store = verified(signed.file, "png", chain.root)
        assert state == "Trusted"
        assert [each["action"] for each in actions_of(store)] == ["c2pa.opened", "c2pa.edited"]
        problems.append(signed.problem)
        if signed.problem is not None:
            assert len(store["manifests"]) == 1
            assert "content credentials (C2PA)" in signed.warnings()[0].message
    assert None in problems and any(problems), "some are signed as what they are: invalid"
    assert signer.signed(marked("png"), "png", Claim(COMPOSITE, stranger, FACES)).warnings() == ()
    assert summary_of(marked("png"), "png") is None


def test_settings_that_cannot_sign_are_named(chain: Chain, tmp_path: Path) -> None:
    assert credentials_of(None, None) is None
    other = make_chain(tmp_path)
    bad = tmp_path / "bad.pem"
    bad.write_text("no key")
    nowhere = tmp_path / "nowhere.pem"
    for certificate, key, words in (
        (chain.certificate, None, "ATELIER_GATEWAY_C2PA_KEY: is required with"),
        (None, chain.key, "ATELIER_GATEWAY_C2PA_CERTIFICATE: is required with"),
        (nowhere, chain.key, "ATELIER_GATEWAY_C2PA_CERTIFICATE: .* cannot be read: No such file"),
        (chain.certificate, nowhere, "ATELIER_GATEWAY_C2PA_KEY: .* cannot be read: No such file"),
        (chain.certificate, bad, "ATELIER_GATEWAY_C2PA_KEY: is not a private key"),
        (bad, chain.key, "ATELIER_GATEWAY_C2PA_CERTIFICATE: is no certificate in PEM"),
        (
            make_self_signed(tmp_path, chain),
            chain.key,
            "C2PA_CERTIFICATE: .* is self-signed",
        ),
        (chain.certificate, other.key, "cannot sign with them"),
    ):
        with pytest.raises(StartupError, match=words):
            credentials_of(certificate, key)


@pytest.mark.parametrize("parameters", [b"", EC_PARAMETERS])
def test_a_key_as_openssl_ecparam_writes_it_signs(chain: Chain, tmp_path: Path, parameters: bytes) -> None:
    key = load_pem_private_key(chain.key.read_bytes(), None)
    traditional = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert traditional.startswith(b"-----BEGIN EC PRIVATE KEY-----")
    path = tmp_path / "key.pem"
    path.write_bytes(parameters + traditional)
    signed = Credentials(chain.certificate, path).sign(marked("png"), "png", Claim(DRAWN))
    assert verified(signed, "png", chain.root)[0] == "Trusted"


def test_a_key_with_a_password_is_named(chain: Chain, tmp_path: Path) -> None:
    key = load_pem_private_key(chain.key.read_bytes(), None)
    path = tmp_path / "key.pem"
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        path.write_bytes(key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret")))
        with pytest.raises(StartupError, match=r"ATELIER_GATEWAY_C2PA_KEY: .* without a password"):
            Credentials(chain.certificate, path)
