"""Tells what a safetensors file is that was put among the LoRAs, by the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Tensors = Mapping[str, Tensor]

_LYCORIS = "of LyCORIS, which is not read here; only LoRA and LoCon are"
_PARTS: tuple[tuple[str, str], ...] = (
    (".hada_w", f"is a LoHa {_LYCORIS}"),
    (".lokr_w", f"is a LoKr {_LYCORIS}"),
    (".oft_", f"is an OFT {_LYCORIS}"),
    (".on_input", f"is an (IA)^3 {_LYCORIS}"),
    (".b2.weight", f"is a GLoRA {_LYCORIS}"),
    ("dora_scale", "is a DoRA, which is not read here"),
    ("lora_magnitude_vector", "is a DoRA, which is not read here"),
    (".lora_mid.", "is a LoCon with a Tucker decomposition (lora_mid), which is not read here"),
    ("bundle_emb.", "has textual inversions in it (bundle_emb), which are not read here"),
    (".diff_b", "has whole differences of biases (diff_b) in it, which are not read here"),
    ("lora_B.bias", "has biases in it (lora_bias), which are not read here"),
    ("joint_blocks", "is a LoRA for Stable Diffusion 3"),
    ("double_blocks", "is a LoRA for FLUX"),
    ("single_transformer_blocks", "is a LoRA for FLUX"),
    ("ip_adapter.", "is an IP-Adapter, not a LoRA"),
    ("image_proj.", "is an IP-Adapter, not a LoRA"),
    ("control_model.", "is a ControlNet, not a LoRA"),
    ("controlnet_", "is a ControlNet, not a LoRA"),
    ("model.diffusion_model.", "is a whole checkpoint, not a LoRA; it can be a model set's base"),
    ("first_stage_model.", "is a whole checkpoint, not a LoRA"),
)
_WIDTHS = {
    768: "is a LoRA for Stable Diffusion 1, not SDXL",
    1024: "is a LoRA for Stable Diffusion 2, not SDXL",
    1280: "is a LoRA for SDXL's refiner; they apply to the base",
    2048: "is a LoRA for SDXL, and this base is another network",
}


def special_kind(tensors: Tensors) -> str | None:
    """Say what a file is that is no plain LoRA, or one for a family other than Stable Diffusion 1, 2 and XL.

    The end of a sentence that begins with its name; None if it may be one.
    """
    for part, what in _PARTS:
        if any(part in key for key in tensors):
            return what
    if any(key.endswith(".diff") for key in tensors):
        return "has whole differences of weights (diff) in it, which are not read here"
    if tensors.keys() & {"emb_params", "clip_l", "clip_g"}:
        return "is a textual inversion, not a LoRA"
    return None


def kind_of_weights(tensors: Tensors) -> str:
    """Say what a file is in which no tensor has a LoRA's name; see `special_kind`."""
    if any(key.startswith(("down_blocks.", "up_blocks.", "conv_in.")) for key in tensors):
        return "is a UNet, not a LoRA"
    if any(key.startswith(("decoder.", "encoder.")) for key in tensors):
        return "is a VAE, or another network, not a LoRA"
    return f"is not a LoRA: it has {len(tensors)} tensors, none with a name of one ({_first(tensors)})"


def other_base(downs: Mapping[str, tuple[int, ...]], own_width: int) -> str | None:
    """Say which base a LoRA is for, by the width of the text that its cross-attention takes.

    `downs`: shapes of its down matrices, by layer; `own_width`: the loaded base's. None: perhaps this one.
    """
    texts = [shape for layer, shape in downs.items() if layer.endswith(("attn2_to_k", "attn2.to_k"))]
    widths = {shape[1] for shape in texts if len(shape) > 1}
    if widths and own_width not in widths:
        width = min(widths)
        return _WIDTHS.get(width, f"is a LoRA for text that is {width} wide; this base's is {own_width}")
    if any(layer.startswith("lora_te_") for layer in downs):
        return "is a LoRA for Stable Diffusion 1 or 2 (lora_te_), not SDXL"
    return None


def _first(tensors: Tensors) -> str:
    return ascii(min(tensors, default=""))[:60]
