"""Packages the trained networks as a model set: a folder with `manifest.json`.

`python -m training.package_set --runs .runs --to demo/atelier_demo_models`

All floats are stored in half precision. Networks without an export are left out.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from training import latent_colors
from training.attributes import JUDGE
from training.autoencoder import build_autoencoder
from training.diffusion import GUIDANCE_RESCALE, TOKENIZER, build_scheduler, load_trained
from training.identity import CALIBRATION, IdentityNet
from training.identity_onnx import write_onnx
from training.loop import EXPORT, load_export, read_export, read_facts
from training.profile import PROFILES, Profile
from training.refiner import build_refiner

MANIFEST = "manifest.json"
IDENTITY = "identity.onnx"
MAX_BYTES = 40_000_000
COMPONENTS = {
    "upscaler": ("upscaler", "upscaler", "upscaler_x4.safetensors", "atelier-demo-compact-x4"),
    "detector": ("detector", "detector", "detector.safetensors", "retinaface_mobile0.25"),
    "codeformer": ("fusion", "codeformer", "codeformer.safetensors", "atelier-demo-codeformer"),
}
DESCRIPTION = (
    "Flat cartoon portraits and scenes. Every network was trained from scratch on pictures that the program "
    "in demo/drawing drew; no photograph of a person was used. Made to show the services at work, not for "
    "photographs."
)


def load_trained_autoencoder(runs: Path, profile: Profile) -> Any:
    """The autoencoder, with the decoder that was trained last."""
    stages = [stage for stage in ("decoder", "autoencoder") if (runs / stage / EXPORT).exists()]
    return load_export(runs / stages[0] / EXPORT, "autoencoder", build_autoencoder(profile))


def write_base(runs: Path, folder: Path, profile: Profile) -> None:
    """The small SDXL as a diffusers folder that `StableDiffusionXLPipeline.from_pretrained` loads."""
    tokenizer = CLIPTokenizer.from_pretrained(runs / "diffusion" / TOKENIZER)
    model = load_trained(runs / "diffusion", len(tokenizer), profile)
    autoencoder = load_trained_autoencoder(runs, profile)
    pipeline: Any = StableDiffusionXLPipeline(
        vae=autoencoder,
        text_encoder=model.text_encoder,
        text_encoder_2=model.text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=model.unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for encoder in (
        "text_encoder",
        "text_encoder_2",
    ):  # otherwise only these two would load in half precision
        path = folder / encoder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "float32"}, indent=2) + "\n")


def write_refiner(runs: Path, folder: Path, profile: Profile) -> None:
    """The refiner's own parts, as diffusers writes them; text encoder and VAE are the base's."""
    unet = load_export(runs / "refiner" / EXPORT, "unet", build_refiner(profile))
    pipeline: Any = StableDiffusionXLImg2ImgPipeline(
        vae=None,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=build_scheduler(),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)


def write_network(export: Path, name: str, path: Path) -> None:
    """One network as a flat state dict in half precision."""
    state = read_export(export, name)
    save_file({k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}, path)


def write_identity(runs: Path, folder: Path) -> dict[str, float] | None:
    """Write the identity network, if the guard's limit was measured for it, and return that.

    See `training.score_identity`, which writes the file. Without it there is nothing to guard with.
    """
    (folder / IDENTITY).unlink(missing_ok=True)
    measured = runs / "identity" / CALIBRATION
    if not (runs / "identity" / EXPORT).exists() or not measured.exists():
        return None
    network = IdentityNet()
    load_export(runs / "identity" / EXPORT, "identity", network)
    write_onnx(network.eval(), folder / IDENTITY)
    limits: dict[str, float] = json.loads(measured.read_text())
    return limits


def checksums(folder: Path) -> dict[str, dict[str, str | int]]:
    """SHA-256 and size of every file of the set, by path."""
    result: dict[str, dict[str, str | int]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".onnx") and path.name != MANIFEST:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            result[path.relative_to(folder).as_posix()] = {"sha256": digest, "bytes": len(content)}
    return result


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def training_record(runs: Path, seed: int, device: str, commit: str | None) -> dict[str, object]:
    """How the set was made: commit, command, seed, steps, device, hours and the figures of each stage."""
    steps, figures, minutes = {}, {}, 0.0
    for export in sorted(runs.glob(f"*/{EXPORT}")):
        if export.parent.name == JUDGE:  # it scores the set and is not part of it
            continue
        facts = read_facts(export)
        steps[export.parent.name] = facts.pop("step", 0)
        minutes += float(str(facts.get("minutes", 0.0)))
        figures[export.parent.name] = facts
    return {
        "commit": commit or _commit(),
        "command": "python -m training",
        "seed": seed,
        "date": date.today().isoformat(),
        "device": device,
        "hours": round(minutes / 60, 2),
        "steps": steps,
        "figures": figures,
    }


def package(runs: Path, folder: Path, seed: int = 0, device: str = "", commit: str | None = None) -> Path:
    """Write the set to `folder`, replacing an earlier one; return the path of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("base", "refiner"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    profile = PROFILES[str(read_facts(runs / "diffusion" / EXPORT)["profile"])]
    write_base(runs, folder / "base", profile)
    components = {"base": {"path": "base", "name": "atelier-demo-sdxl"}}
    refined = (runs / "refiner" / EXPORT).exists()
    if refined:
        write_refiner(runs, folder / "refiner", profile)
        components["refiner"] = {"path": "refiner", "name": "atelier-demo-refiner"}
    for component, (stage, network, file, name) in COMPONENTS.items():
        if (runs / stage / EXPORT).exists():
            write_network(runs / stage / EXPORT, network, folder / file)
            components[component] = {"path": file, "name": name}
    identity = write_identity(runs, folder)
    if identity is not None:
        components["identity"] = {"path": IDENTITY, "name": "atelier-demo-identity"}
    preview = latent_colors.fit(load_trained_autoencoder(runs, profile), profile.native)
    files = checksums(folder)
    total = sum(int(entry["bytes"]) for entry in files.values())
    if total > MAX_BYTES:
        raise ValueError(f"the set has {total} bytes, more than {MAX_BYTES}")
    manifest = {
        "name": "demo",
        "license": "Apache-2.0",
        "description": DESCRIPTION,
        "max_side": profile.native,
        "refiner_max_side": profile.refiner_side if refined else None,
        "size_multiple": profile.size_multiple,
        "default_negative_prompt": "",
        "max_prompt_chunks": 1,  # captions in training are never longer
        "preview": preview,
        "guidance_rescale": GUIDANCE_RESCALE,
        "match_tone": True,  # the small CodeFormer changes the tone of the surroundings
        **({"identity": identity} if identity else {}),
        "components": components,
        "files": files,
        "training": training_record(runs, seed, device or _device_name(), commit),
    }
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    print(
        f"packaged {', '.join(components)}: {len(files)} files, {total / 1e6:.1f} MB in {folder}", flush=True
    )
    return path


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Packages trained networks as a model set.")
    parser.add_argument("--runs", type=Path, default=Path(".runs"))
    parser.add_argument("--to", type=Path, default=Path("demo/atelier_demo_models"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="", help="what the networks were trained on, for the record")
    parser.add_argument("--commit", help="commit of the training program, if not the current one")
    given = parser.parse_args()
    package(given.runs, given.to, given.seed, given.device, given.commit)


if __name__ == "__main__":
    main()
