"""The files that the shipped catalog names are those that the generator needs: shown with tiny ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from atelier_generator.models import load_models
from atelier_generator.settings import GeneratorSettings
from tests.file_server import FileServer, file_server
from tests.tiny_sdxl import build_set
from tools.models.__main__ import main
from tools.models.catalogue import read_catalog

WORD_A = [2 * 256, 256 + ord("a"), 2 * 256 + 1]  # start, the letter at the end of a word, end


def test_the_generator_loads_a_base_and_a_refiner_of_exactly_the_published_files(tmp_path: Path) -> None:
    published = build_set(tmp_path / "published", refiner=True, upscaler=False)
    rename_as_published(published)
    with file_server() as server:
        catalog = catalog_of(published, server, tmp_path / "catalogue.toml")
        assert main(["--to", str(tmp_path / "set"), "--catalogue", str(catalog), "--retry-pause", "0"]) == 0
    models = load_models(GeneratorSettings(device="cpu", dtype="float32", model_set=str(tmp_path / "set")))
    assert models.refiner is not None and models.refiner.unet.dtype == torch.float32
    assert models.refiner.text_encoder_2 is models.text_to_image.text_encoder_2
    for tokenizer in (models.text_to_image.tokenizer, models.text_to_image.tokenizer_2):
        assert tokenizer("a")["input_ids"] == WORD_A


def rename_as_published(folder: Path) -> None:
    """fp16 names, and tokenizers as separate tables of words and merges, as of 2023."""
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    for path in folder.rglob("tokenizer.json"):
        vocabulary = json.loads(path.read_text())["model"]["vocab"]
        path.with_name("vocab.json").write_text(json.dumps(vocabulary))
        path.with_name("merges.txt").write_text("#version: 0.2\n")
        special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        path.with_name("special_tokens_map.json").write_text(json.dumps(special))
        path.unlink()


def catalog_of(published: Path, server: FileServer, path: Path) -> Path:
    """The shipped catalog's base and refiner, with the tiny files' sizes and checksums, spelled as in 0.1."""
    server.files["/license"] = b"free\n"
    lines = ['name = "sdxl"', "[licences.openrail]", 'name = "free"', 'file = "free.txt"']
    lines += [
        f'url = "{server.url}/license"',
        "bytes = 5",
        'sha256 = "' + checksum(server.files["/license"]) + '"',
    ]
    for entry in read_catalog().only(["base", "refiner"]).entries:
        lines += [f"[components.{entry.role}]", f'name = "{entry.name}"', f'path = "{entry.path}"']
        lines += ['licence = "openrail"', f'from = "{server.url}/{entry.role}/"', "files = ["]
        for source in entry.files:
            content = (published / source.path).read_bytes()
            server.files[f"/{source.path}"] = content
            inner = source.path.removeprefix(f"{entry.path}/")
            lines.append(f'{{ path = "{inner}", bytes = {len(content)}, sha256 = "{checksum(content)}" }},')
        lines.append("]")
    path.write_text("\n".join(lines))
    return path


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
