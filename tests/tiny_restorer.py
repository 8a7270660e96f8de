"""A model set of the restorer with synthetic weights, small enough to run in a fraction of a second.

The classes are the real ones. The detector's heads are set by hand: it detects a face of a fixed size in
every cell of the image, whatever it shows, and the suppression of duplicates leaves a regular grid of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import warnings
from pathlib import Path

import torch
from facexlib.detection.retinaface import RetinaFace
from facexlib.parsing.parsenet import ParseNet
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.GFPGAN import GFPGAN
from spandrel.architectures.RestoreFormer import RestoreFormer
from torch import Tensor

from atelier_restorer.align import CROP_SIZE, TEMPLATE
from atelier_restorer.nets.codeformer import CodeFormer, CodeFormerConfig

CONFIG = CodeFormerConfig(
    base_width=2,
    channel_multipliers=(1, 1, 2, 2, 4, 4),
    res_blocks=1,
    codebook_size=32,
    codebook_dim=8,
    transformer_dim=16,
    transformer_layers=1,
    mlp_dim=16,
)

# (level, anchor): side of its faces in px of the resized image
FACES_OF_512_PX = (2, 1)
FACES_OF_256_PX = (2, 0)


def codeformer_state(seed: int = 0) -> dict[str, Tensor]:
    """Return the weights of a narrow CodeFormer that changes its input."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = CodeFormer(CONFIG)
        torch.nn.init.normal_(network.position_emb)
        return {key: value.clone() for key, value in network.state_dict().items()}


def gfpgan_state(seed: int = 0) -> dict[str, Tensor]:
    """Return the weights of a narrow GFPGAN whose noise has an effect."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = GFPGAN(narrow=1 / 16, num_style_feat=8)
        state = {key: value.clone() for key, value in network.state_dict().items()}
    for key, value in state.items():
        if key.startswith("stylegan_decoder.style_conv") and key.endswith((".weight", ".bias")):
            value += 0.1 if value.numel() == 1 else 0  # the strength of the noise
    return state


def restoreformer_state(seed: int = 0) -> dict[str, Tensor]:
    """Return the weights of a narrow RestoreFormer, named as in the published file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = RestoreFormer(
            n_embed=32, embed_dim=16, z_channels=16, ch=32, ch_mult=(1, 1, 1, 1, 1, 1), num_res_blocks=1
        )
    state = {f"vqvae.{key}": value.clone() for key, value in network.state_dict().items()}
    return state | {"vqvae.quantize.utility_counter": torch.zeros(32)}


def detector_state(faces: dict[tuple[int, int], float] | None = None) -> dict[str, Tensor]:
    """Return the weights of a RetinaFace mobile0.25 that detects faces in every cell.

    `faces` maps (level 0 to 2, anchor 0 to 1) to the confidence of the faces there; all others have none.
    """
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network = RetinaFace(network_name="mobile0.25", device=torch.device("cpu"))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for key in state:
        if "Head." in key:
            state[key].zero_()
    # Landmarks relative to the anchor's center and side, divided by the decoder's variance of 0.1.
    points = torch.from_numpy((TEMPLATE - CROP_SIZE / 2) / CROP_SIZE / 0.1).float().flatten()
    for level in range(3):
        state[f"LandmarkHead.{level}.conv1x1.bias"][:] = points.repeat(2)
        for anchor in range(2):
            confidence = (faces or {}).get((level, anchor), 0.01)
            logit = math.log(confidence / (1 - confidence))
            state[f"ClassHead.{level}.conv1x1.bias"][2 * anchor + 1] = logit
    return state


NarrowParseNet = functools.partial(ParseNet, base_ch=2, ch_range=(2, 4), res_depth=1)
"""The parser's class at a width that takes a fraction of a second, for `atelier_restorer.parse.ParseNet`."""


def parser_state(finds_a_face: bool = True) -> dict[str, Tensor]:
    """Return the weights of a `NarrowParseNet` that finds skin at some positions, background at others.

    Which ones depends on the image. If it finds no face, all is background.
    """
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = NarrowParseNet(in_size=CROP_SIZE, out_size=CROP_SIZE, parsing_ch=19).eval()
        image = torch.rand(1, 3, 16, 16)
    head = network.out_mask_conv.conv2d
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(head.bias, -1e6)
    head.bias.data[0] = 0.0  # background
    if finds_a_face:
        head.weight.data[1, 0, 1, 1] = 1.0  # skin, where the first feature is above its median
        smooth = torch.nn.functional.interpolate(image, (CROP_SIZE, CROP_SIZE), mode="bilinear")
        head.bias.data[1] = 0.0
        with torch.inference_mode():
            feature = network(smooth * 2 - 1)[0][0, 1]
        head.bias.data[1] = -feature.median()
    return {key: value.clone() for key, value in network.state_dict().items()}


def build_set(
    folder: Path,
    *,
    detector: dict[str, Tensor] | None = None,
    codeformer: dict[str, Tensor] | None = None,
    parser: dict[str, Tensor] | None = None,
    upscaler: bool = True,
    match_tone: bool | None = None,
) -> Path:
    """Write a model set into `folder` and return it; parts that are None are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    components: dict[str, dict[str, str]] = {}
    if detector is not None:
        save_file(detector, folder / "detector.safetensors")
        components["detector"] = {"path": "detector.safetensors", "name": "retinaface_mobile0.25"}
    if codeformer is not None:
        save_file(codeformer, folder / "codeformer.safetensors")
        components["codeformer"] = {"path": "codeformer.safetensors", "name": "tiny-codeformer"}
    if parser is not None:
        save_file(parser, folder / "parser.safetensors")
        components["parser"] = {"path": "parser.safetensors", "name": "tiny-parsenet"}
    if upscaler:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=1, upscale=2)
        save_file(network.state_dict(), folder / "upscaler.safetensors")
        components["upscaler"] = {"path": "upscaler.safetensors", "name": "tiny-compact-x2"}
    files = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in folder.glob("*.safetensors")
    }
    manifest: dict[str, object] = {"name": "tiny", "license": "Apache-2.0"}
    manifest |= {"components": components, "files": files}
    if match_tone is not None:
        manifest["match_tone"] = match_tone
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder
