"""Unpacks a packaged set into the stages' exports, to continue training from it.

`python -m training.unpack_set --set demo/atelier_demo_models --out .runs`

Networks whose shapes no longer match the profile are left out; their stages start from scratch. The packaged
CodeFormer stands for all of its three stages: `fusion` continues it, and uses its codes as those of `codes`.
The identity network is packaged with its normalizations folded in and cannot be trained further; its stage
starts from scratch.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from atelier_restorer.nets.codeformer import CodeFormer
from training.autoencoder import build_autoencoder
from training.detector import build_detector
from training.diffusion import TOKENIZER, TextToLatent
from training.loop import EXPORT, prefixed, write_export
from training.options import default_profile
from training.package_set import COMPONENTS, MANIFEST
from training.profile import PROFILES, Profile
from training.refiner import build_refiner
from training.upscaler import CompactUpscaler

_MODEL_FOLDERS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class Part:
    """One network of the set: the stages that trained it, its name in their exports, and its weights."""

    stages: tuple[str, ...]
    name: str
    network: nn.Module
    state: dict[str, Tensor]

    @property
    def fits(self) -> bool:
        """Whether names and shapes of the weights match the network."""
        return _shapes(self.state) == _shapes(self.network.state_dict())


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    # Versions of transformers differ in whether a text encoder's keys contain `text_model.`.
    return {key.replace("text_model.", ""): tuple(tensor.shape) for key, tensor in state.items()}


def parts(packaged: Path, profile: Profile) -> Iterator[Part]:
    """What the set contains, with untrained networks of the profile."""
    components = json.loads((packaged / MANIFEST).read_text())["components"]
    base = packaged / components["base"]["path"]
    vae = load_file(base / "vae" / "diffusion_pytorch_model.safetensors")
    yield Part(("autoencoder", "decoder"), "autoencoder", build_autoencoder(profile), vae)
    vocabulary = len(CLIPTokenizer.from_pretrained(base / "tokenizer"))
    model: dict[str, Tensor] = {}
    for folder in _MODEL_FOLDERS:
        (file,) = (base / folder).glob("*.safetensors")
        model |= prefixed(folder, load_file(file))
    yield Part(("diffusion",), "model", TextToLatent(vocabulary, profile), model)
    if "refiner" in components:
        (file,) = (packaged / components["refiner"]["path"] / "unet").glob("*.safetensors")
        yield Part(("refiner",), "unet", build_refiner(profile), load_file(file))
    networks = {
        "upscaler": CompactUpscaler(),
        "detector": build_detector(),
        "codeformer": CodeFormer(profile.codeformer),
    }
    for component, network in networks.items():
        if component in components:
            stage, name, _, _ = COMPONENTS[component]
            stages = ("codebook", "codes", stage) if component == "codeformer" else (stage,)
            yield Part(stages, name, network, load_file(packaged / components[component]["path"]))


def unpack_set(packaged: Path, runs: Path, profile: Profile) -> list[str]:
    """Write the exports that `runs` does not have yet; return the names of those stages."""
    manifest: dict[str, Any] = json.loads((packaged / MANIFEST).read_text())
    record, written = manifest["training"], []
    for part in parts(packaged, profile):
        if not part.fits:
            print(f"{part.name} does not have the shapes of the profile {profile.name}", flush=True)
            continue
        for stage in part.stages:
            if (runs / stage / EXPORT).exists() or stage not in record["steps"]:
                continue
            (runs / stage).mkdir(parents=True, exist_ok=True)
            facts = {**record["figures"][stage], "profile": profile.name, "step": record["steps"][stage]}
            write_export(runs / stage, prefixed(part.name, part.state), **facts)
            written.append(stage)
    if "diffusion" in written:
        tokenizer = packaged / manifest["components"]["base"]["path"] / "tokenizer"
        shutil.copytree(tokenizer, runs / "diffusion" / TOKENIZER, dirs_exist_ok=True)
    print(f"unpacked from {packaged}: {', '.join(written) or 'nothing'}", flush=True)
    return written


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=Path, default=Path("demo/atelier_demo_models"))
    parser.add_argument("--out", type=Path, default=Path(".runs"))
    parser.add_argument("--profile", choices=sorted(PROFILES), default=default_profile())
    given = parser.parse_args()
    unpack_set(given.set, given.out, PROFILES[given.profile])


if __name__ == "__main__":
    main()
