"""The catalog of the published weights, and the errors of an invalid one."""

from __future__ import annotations

import io
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from atelier_runtime.service_status import NetworkRole
from tools.models.__main__ import main
from tools.models.catalogue import BUILT_IN, CatalogError, read_catalog

LICENSE = """
[licenses.free]
name = "Free"
file = "free.txt"
url = "https://example.org/free"
bytes = 1
sha256 = ""
"""
COMPONENT = """
[components.parser]
name = "p"
path = "parser.safetensors"
license = "free"
files = [{ url = "https://example.org/p.pth", bytes = 5, sha256 = "" }]
"""


def test_the_shipped_catalog_has_every_role_and_every_checksum() -> None:
    catalog = read_catalog()
    # SDXL has no published inpainting network that would be worth 5 GB to everybody.
    assert {entry.role for entry in catalog.entries} == set(NetworkRole) - {NetworkRole.INPAINT}
    sources = [source for entry in catalog.entries for source in entry.files]
    texts = [license.text for license in catalog.licenses]
    assert all(source.sha256 and source.url.startswith("https://") for source in (*sources, *texts))
    assert not any(
        "/resolve/main/" in source.url or "/master/" in source.url for source in (*sources, *texts)
    )
    assert {source.path for source in sources if source.is_converted} == {
        f"{role}.safetensors" for role in ("upscaler", "detector", "codeformer", "parser")
    }
    assert [license.key for license in catalog.licenses if license.must_be_accepted] == ["s-lab", "parsenet"]
    assert (catalog.name, catalog.max_side, catalog.size_multiple) == ("sdxl", None, 8)


PROFILES = ("commercial", "photo", "photo-commercial")


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_a_set_of_its_own_with_every_checksum(profile: str) -> None:
    catalog = read_catalog(profile=profile)
    assert catalog.name == profile and catalog.description != read_catalog().description
    roles = [str(entry.role) for entry in catalog.entries]
    faces = ["upscaler", "detector", "codeformer", "parser"]
    assert roles == ([*faces, "identity"] if "photo" in profile else ["base", "refiner", *faces, "identity"])
    sources = [source for entry in catalog.entries for source in entry.files]
    texts = [license.text for license in catalog.licenses]
    assert all(source.sha256 and source.url.startswith("https://") for source in (*sources, *texts))
    assert not any("/main/" in source.url or "/master/" in source.url for source in (*sources, *texts))


@pytest.mark.parametrize("profile", ["commercial", "photo-commercial"])
def test_nothing_of_the_commercial_sets_is_for_non_commercial_use_only(profile: str) -> None:
    catalog = read_catalog(profile=profile)
    names = {entry.role: entry.name for entry in catalog.entries}
    assert (names["codeformer"], names["parser"]) == ("RestoreFormer", "bisenet")
    assert not [
        lic.name for lic in catalog.licenses if lic.must_be_accepted or "NON-COMM" in lic.name.upper()
    ]


def test_the_photo_set_asks_for_the_same_licenses_as_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    keys = [lic.key for lic in read_catalog(profile="photo").licenses if lic.must_be_accepted]
    assert keys == ["s-lab", "parsenet"]
    assert main(["--list", "--profile", "photo"]) == 0
    out = capsys.readouterr().out
    assert "The set 'photo'" in out and "\nbase:" not in out and "Total: 677.26 MB" in out


@pytest.mark.parametrize("profile", [None, "photo-commercial"])
def test_an_alternative_takes_the_place_of_the_sets_component_of_its_role(profile: str | None) -> None:
    before = {entry.role: entry.key for entry in read_catalog(profile=profile).entries}
    catalog = read_catalog(profile=profile, alternatives=["arcface"])
    assert {entry.role: entry.key for entry in catalog.entries} == before | {"identity": "arcface"}
    [entry] = [entry for entry in catalog.entries if entry.key == "arcface"]
    [source] = entry.files
    assert source.sha256 and source.is_converted and entry.license.must_be_accepted
    assert len(catalog.only(["identity"]).entries) == 1
    plain = read_catalog(profile=profile)
    assert catalog.description.startswith(plain.description.removesuffix(f" {plain.assurance}"))
    assert "arcface_ir_se50" in catalog.description and "in place of sface" in catalog.description


def test_an_alternative_that_there_is_not_and_two_of_one_role_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--list", "--with", "facenet"]) == 2
    assert "there is no component facenet, only base," in capsys.readouterr().err
    assert main(["--list", "--with", "restoreformer", "codeformer"]) == 2
    assert "several of restoreformer, codeformer are a codeformer" in capsys.readouterr().err


COMMERCIAL = ("commercial", "photo-commercial")


@pytest.mark.parametrize("profile", COMMERCIAL)
@pytest.mark.parametrize("alternative", ["arcface", "codeformer", "parser"])
def test_a_set_with_a_component_for_non_commercial_use_does_not_say_that_it_has_none(
    profile: str, alternative: str
) -> None:
    catalog = read_catalog(profile=profile, alternatives=[alternative])
    assert any("NON-COMMERCIAL" in license.name for license in catalog.licenses)
    assert "no component" not in catalog.description.lower()
    assert "NON-COMMERCIAL" in catalog.description


@pytest.mark.parametrize("profile", COMMERCIAL)
@pytest.mark.parametrize("alternatives", [[], ["bisenet"]])
def test_a_set_without_one_says_so(profile: str, alternatives: list[str]) -> None:
    description = read_catalog(profile=profile, alternatives=alternatives).description
    assert "No component is published for non-commercial use only." in description


SPOKEN = {
    "RealESRGAN_x2plus": "Real-ESRGAN",
    "retinaface_resnet50": "RetinaFace",
    "codeformer": "CodeFormer",
    "parsenet": "ParseNet",
    "bisenet": "BiSeNet",
    "sface": "SFace",
    "stable-diffusion-xl-base-1.0": "Stable Diffusion XL 1.0",
    "stable-diffusion-xl-refiner-1.0": "refiner",
}


@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_a_description_names_every_component(profile: str | None) -> None:
    catalog = read_catalog(profile=profile)
    for entry in catalog.entries:
        assert SPOKEN.get(entry.name, entry.name) in catalog.description


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (
            ["--with", "arcface", "--only", "arcface"],
            "'arcface' is a component, but --only .*write identity$",
        ),
        (["--only", "arcface"], "write identity .and --with arcface, or the set has another.$"),
        (["--profile", "photo", "--without", "sface"], "'sface' is a component.*write identity$"),
        (["--only", "bisenet"], "write parser .and --with bisenet"),
        (
            ["--mirror", "http://mirror", "--without", "RestoreFormer", "--profile", "commercial"],
            "codeformer$",
        ),
        (["--profile", "photo", "--only", "base"], "there is no 'base' in the set, only upscaler"),
        (["--only", "facenet"], "there is no 'facenet' in the set, only base"),
    ],
)
def test_components_where_roles_are_taken_are_answered_with_their_role(
    capsys: pytest.CaptureFixture[str], arguments: list[str], advice: str
) -> None:
    assert main(["--list", *arguments]) == 2
    assert re.search(advice, capsys.readouterr().err.strip())


def test_with_arcface_its_terms_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--only", "identity", "--with", "arcface"]) == 0
    out = capsys.readouterr().out
    assert "identity: arcface_ir_se50, MIT License" in out and "Total: 175.38 MB" in out
    assert "NON-COMMERCIAL research only; must be accepted: --accept arcface" in out


def test_every_set_tells_people_apart() -> None:
    for profile in (None, *PROFILES):
        assert "identity" in {entry.role for entry in read_catalog(profile=profile).entries}


def test_an_unknown_profile_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--profile", "painting"]) == 2
    err = capsys.readouterr().err
    assert "no profile 'painting', only commercial, photo, photo-commercial" in err


def test_the_shipped_base_and_refiner_have_what_the_generator_loads() -> None:
    entries = {entry.role: {source.path for source in entry.files} for entry in read_catalog().entries}
    networks = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
    networks |= {"text_encoder": "model", "text_encoder_2": "model"}
    for folder, name in networks.items():
        assert {f"base/{folder}/config.json", f"base/{folder}/{name}.fp16.safetensors"} <= entries["base"]
    for tokenizer in ("tokenizer", "tokenizer_2"):
        assert {f"base/{tokenizer}/vocab.json", f"base/{tokenizer}/merges.txt"} <= entries["base"]
    for role in ("base", "refiner"):
        assert {f"{role}/model_index.json", f"{role}/scheduler/scheduler_config.json"} <= entries[role]
    assert "refiner/unet/diffusion_pytorch_model.fp16.safetensors" in entries["refiner"]


def test_no_checksum_of_the_shipped_catalog_has_two_sizes() -> None:
    def files(table: Any) -> list[tuple[str, int]]:
        if isinstance(table, dict) and "sha256" in table:
            return [(table["sha256"], table["bytes"])]
        inner = table.values() if isinstance(table, dict) else table if isinstance(table, list) else ()
        return [pair for value in inner for pair in files(value)]

    pairs = set(files(tomllib.loads(BUILT_IN.read_text())))
    assert len(pairs) == len({checksum for checksum, _ in pairs})


def test_both_licenses_that_forbid_commercial_use_are_refused_at_once_and_accepted_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["--to", str(tmp_path / "set"), "--without", "codeformer"]) == 2
    err = capsys.readouterr().err
    assert "parser: MIT License" in err and "NON-COMMERCIAL" in err and "--accept parsenet " in err
    assert main(["--to", str(tmp_path / "set"), "--accept", "s-lab"]) == 2
    assert "--without parser " in capsys.readouterr().err
    assert main(["--to", str(tmp_path / "set")]) == 2
    err = capsys.readouterr().err
    assert 'ACCEPT="s-lab parsenet"' in err and 'WITHOUT="codeformer parser"' in err
    assert not list((tmp_path / "set").rglob("*.part"))


def test_a_mirror_takes_the_place_of_the_scheme() -> None:
    urls = [s.url for e in read_catalog().mirrored("http://mirror:8080/m/").entries for s in e.files]
    assert "http://mirror:8080/m/github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth" in urls
    assert all(url.startswith("http://mirror:8080/m/") for url in urls)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "catalogue.toml: "),
        (LICENSE, "components is missing"),
        (
            LICENSE + COMPONENT.replace("components.parser", "components.painter"),
            "components.painter is unknown",
        ),
        (
            LICENSE + COMPONENT.replace('"free"', '"other"'),
            "components.parser: the license 'other' is not in",
        ),
        (LICENSE + COMPONENT.replace("bytes = 5", "bytes = 0"), r"files\[0\]: bytes must be the file's size"),
        (LICENSE + COMPONENT.replace('sha256 = ""', 'sha256 = "12"'), "sha256 must be 64"),
        (LICENSE + COMPONENT.replace("https://example.org/p.pth", "file:///p.pth"), "not an http"),
        (LICENSE + COMPONENT.replace('"parser.safetensors"', '"../p.safetensors"'), "leads out of the set"),
        (LICENSE + COMPONENT.replace('"parser.safetensors"', '"licences/free.txt"'), "is taken"),
        (LICENSE + COMPONENT.replace('"parser.safetensors"', '"manifest.json"'), "is taken"),
        (LICENSE + COMPONENT + '[profiles.p]\ncomponents = ["x"]', "profiles.p: there is no component x"),
        (
            LICENSE + COMPONENT + '[profiles.p]\ncomponents = ["parser"]',
            "profiles.p: description must be a string",
        ),
        (
            LICENSE
            + COMPONENT
            + COMPONENT.replace("components.parser", "components.other").replace('"p', '"q')
            + 'role = "parser"\n[profiles.p]\ndescription = ""\ncomponents = ["parser", "other"]',
            "profiles.p: several components are a parser",
        ),
    ],
)
def test_an_invalid_catalog_is_refused_with_the_entry(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "catalogue.toml"
    path.write_text(f'name = "x"\n{text}')
    with pytest.raises(CatalogError, match=complaint):
        read_catalog(path)


def test_an_unknown_role_is_named() -> None:
    with pytest.raises(CatalogError, match=r"painter.*base.*refiner"):
        read_catalog().only(["painter"])
