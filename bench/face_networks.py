"""The restorer's networks twice, from the same weights: as Atelier and as facexlib run them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from facexlib.detection.retinaface import RetinaFace
from facexlib.parsing.parsenet import ParseNet
from torch import Tensor

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.detect import FaceDetector
from atelier_restorer.models import FaceRestorer, batch_for, restorer_dtype
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_restorer.parse import FaceParser
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import settings
from atelier_runtime.device import choose_device
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.weights import ModelSet, load_state_dict

SETS = ("set", "published")
_BACKBONES = {"retinaface_resnet50": "resnet50", "retinaface_mobile0.25": "mobile0.25"}


@dataclass(frozen=True)
class FaceNetworks:
    """Ours, and the plain modules that the reference flow runs one face at a time."""

    device: torch.device
    dtype: torch.dtype
    max_batch: int
    weights: str
    detector: FaceDetector
    restorer: FaceRestorer
    parser: FaceParser
    plain_detector: RetinaFace
    plain_codeformer: CodeFormer
    plain_parser: ParseNet

    def describe(self) -> dict[str, object]:
        """Return what a reader of the figures needs to know."""
        return {
            "weights": self.weights,
            "device": str(self.device),
            "dtype_of_codeformer": {"atelier": str(self.dtype), "reference": "torch.float32"},
            "largest_batch": self.max_batch,
            "detector": self.detector.name,
            "tf32_in_convolutions": bool(torch.backends.cudnn.allow_tf32),
        }


def load_networks(choice: str, device_name: str | None = None) -> FaceNetworks:
    """Build the networks of the model `set` that ATELIER_RESTORER_MODEL_SET names, or of `published` sizes.

    The latter, and a parser that the set lacks, have random weights, which take just as long. The device is
    ATELIER_RESTORER_DEVICE unless one is given.
    """
    configured = settings.load(RestorerSettings)
    device = choose_device(device_name or configured.device)
    dtype = restorer_dtype(configured.dtype, device)
    torch.backends.cudnn.allow_tf32 = False  # as the restorer does when it loads
    states = _random_states() if choice == "published" else _states_of_set(configured.model_set)
    weights = (
        "random, of the published sizes" if choice == "published" else f"model set {configured.model_set}"
    )
    if "parser" not in states:
        weights += "; ParseNet of the published size with random weights"
        states["parser"] = _random_parser()
    detector = FaceDetector.from_state_dict(states["detector"], device)
    plain = {
        "plain_detector": _plain_detector(detector.name, states["detector"], device),
        "plain_codeformer": CodeFormer.from_state_dict(states["codeformer"]),
        "plain_parser": ParseNet(in_size=CROP_SIZE, out_size=CROP_SIZE, parsing_ch=19),
    }
    plain["plain_parser"].load_state_dict(states["parser"])
    for network in plain.values():
        network.requires_grad_(False).to(device).eval()
    return FaceNetworks(
        device=device,
        dtype=dtype,
        max_batch=configured.max_batch or batch_for(device),
        weights=weights,
        detector=detector,
        restorer=FaceRestorer(CodeFormer.from_state_dict(states["codeformer"]), device, dtype),
        parser=FaceParser.from_state_dict(states["parser"], device, dtype),
        **plain,
    )


def _states_of_set(name: str) -> dict[str, Mapping[str, Tensor]]:
    model_set = ModelSet.open(name)
    states: dict[str, Mapping[str, Tensor]] = {}
    for role in (NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER):
        component = model_set.require(role)
        states[role] = load_state_dict(component.path, component.setting)
    if (parser := model_set.component(NetworkRole.FACE_PARSER)) is not None:
        states["parser"] = load_state_dict(parser.path, parser.setting)
    return states


def _random_states() -> dict[str, Mapping[str, Tensor]]:
    torch.manual_seed(0)
    codeformer = CodeFormer()
    torch.nn.init.normal_(codeformer.position_emb)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchvision: facexlib's pretrained=False is deprecated
        detector = RetinaFace(network_name="resnet50", device=torch.device("cpu"))
    return {
        "detector": detector.state_dict(),
        "codeformer": codeformer.state_dict(),
        "parser": _random_parser(),
    }


def _random_parser() -> Mapping[str, Tensor]:
    torch.manual_seed(1)
    state: Mapping[str, Tensor] = ParseNet(in_size=CROP_SIZE, out_size=CROP_SIZE, parsing_ch=19).state_dict()
    return state


def _plain_detector(name: str, state: Mapping[str, Tensor], device: torch.device) -> RetinaFace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        network = RetinaFace(network_name=_BACKBONES[name], device=device)
    network.load_state_dict(state)
    return network
