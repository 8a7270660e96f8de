"""Identifies which of the restorer's networks a checkpoint contains, by its tensors' names and shapes."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from facexlib.detection.retinaface import RetinaFace
from facexlib.parsing.bisenet import BiSeNet
from facexlib.parsing.parsenet import ParseNet
from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
from torch import Tensor, nn

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.identity import SFACE, SFACE_SHA256, IdentityNetworkError, OnnxIdentifier
from atelier_restorer.identity_arcface import ARCFACE
from atelier_restorer.nets import arcface
from atelier_restorer.nets.checkpoint import with_counters
from atelier_restorer.nets.codeformer import CodeFormer, CodeFormerConfig, sizes_of
from atelier_restorer.nets.face_restoration import ARCHITECTURES, Architecture, canonical
from atelier_restorer.nets.rrdbnet_layout import rrdbnet_shapes
from atelier_restorer.recognition_crop import SIDE
from atelier_runtime.snapshot import Snapshot

_MAX_LISTED = 10
_CORRUPT_OVERLAP = (
    0.5  # a file with this fraction of a network's tensor names counts as a corrupt file of that network
)
_DIFFUSION = (
    *("model.diffusion_model.", "first_stage_model.", "conditioner.", "cond_stage_model."),
    *("down_blocks.", "text_model.", "lora_"),
)
_BACKBONES = ("resnet50", "mobile0.25")
_PARSER_CLASSES = 19  # of the published ParseNet


class UnknownNetworkError(ValueError):
    """The tensors do not match any network that the restorer runs; the message names the closest."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """A network: its name, the role that it can take, its sizes, and the number of its parameters."""

    network: str
    role: str
    config: Mapping[str, Any]
    parameters: int


def identify(state: Mapping[str, Tensor]) -> Identity:
    """Return what a checkpoint is: one of our face networks, or an upscaler that spandrel knows.

    Raises:
        UnknownNetworkError: it is neither, or is incomplete; the first ten tensors that differ from the
            closest network are listed, the rest counted.
    """
    state = with_counters(canonical(state))
    closest = max(_our_networks(state), key=lambda known: _similarity(known.network.state_dict(), state))
    overlap = _overlap(closest.network.state_dict(), state)
    if overlap < _CORRUPT_OVERLAP:
        try:
            return _identify_upscaler(state)
        except UnsupportedModelError:
            if any(key.startswith(_DIFFUSION) for key in state):
                raise UnknownNetworkError(
                    "not a network of the restorer, but a diffusion model or a part of one; "
                    "`atelier-generator inspect` says which"
                ) from None
            # Not an upscaler either: the error below names the closest network.
    if differences := list(_differences(closest.network.state_dict(), state)):
        raise UnknownNetworkError(
            f"not a network of the restorer. The closest is {closest.name}, with {overlap:.0%} of the tensor "
            f"names in common: {_summarize(differences)}"
        )
    parameters = sum(parameter.numel() for parameter in closest.network.parameters())
    return Identity(closest.name, closest.role, closest.config, parameters)


def describe_onnx(snapshot: Snapshot) -> dict[str, Any]:
    """Describe an ONNX file for `inspect`: of such files, the restorer runs networks of face recognition.

    Raises:
        UnknownNetworkError: it is not one of them.
    """
    try:
        network = OnnxIdentifier(snapshot.read())
    except IdentityNetworkError as error:
        raise UnknownNetworkError(
            f"not a network of the restorer: as an identity network it {error}"
        ) from error
    return {
        "network": SFACE if snapshot.sha256 == SFACE_SHA256 else "identity",
        "role": "identity",
        "config": {"format": "onnx", "image_size": SIDE, "dimensions": network.dimensions},
        "file": str(snapshot.source),
        "bytes": snapshot.size,
        "sha256": snapshot.sha256,
    }


@dataclasses.dataclass(frozen=True)
class _KnownNetwork:
    """One of our networks, on torch's meta device."""

    name: str
    role: str
    network: nn.Module
    config: Mapping[str, Any]


def _our_networks(state: Mapping[str, Tensor]) -> Iterator[_KnownNetwork]:
    """Build each of our networks, with the sizes that the checkpoint's shapes imply where it can vary."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore", UserWarning)  # torchvision's, about facexlib's pretrained=False
        yield _codeformer(CodeFormerConfig())
        # Shapes may imply sizes that no network can have.
        with contextlib.suppress(ValueError, ArithmeticError, RuntimeError):
            if (sizes := sizes_of(state)) != CodeFormerConfig():
                yield _codeformer(sizes)
        for backbone in _BACKBONES:
            network = RetinaFace(network_name=backbone, device=torch.device("meta"))
            width = network.fpn.output1[0].out_channels
            config = {"backbone": backbone, "pyramid_channels": width}
            yield _KnownNetwork(network.model_name, "detector", network, config)
        parser = ParseNet(in_size=CROP_SIZE, out_size=CROP_SIZE, parsing_ch=_PARSER_CLASSES)
        config = {"image_size": CROP_SIZE, "classes": _PARSER_CLASSES}
        yield _KnownNetwork("parsenet", "parser", parser, config)
        yield _KnownNetwork("bisenet", "parser", BiSeNet(_PARSER_CLASSES), config)
        for architecture in ARCHITECTURES:
            yield _single_restorer(architecture, state)
        yield _arcface(state)


def _single_restorer(architecture: Architecture, state: Mapping[str, Tensor]) -> _KnownNetwork:
    """Build a face restorer without a fidelity, with the published sizes if the shapes imply no others."""
    sizes: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        sizes = architecture.sizes_of(state)
    network = architecture.network(**sizes)
    config = {"image_size": CROP_SIZE, "fidelity": False, **sizes}
    config.pop("out_size", None)  # the same
    return _KnownNetwork(architecture.name.lower(), "codeformer", network, config)


def _arcface(state: Mapping[str, Tensor]) -> _KnownNetwork:
    """Build an ArcFace, with the published sizes if the shapes imply no others."""
    sizes = arcface.ArcFaceConfig()
    with contextlib.suppress(ValueError):
        sizes = arcface.sizes_of(state)
    config = {"image_size": SIDE, "dimensions": sizes.dimensions, "units": len(sizes.widths)}
    return _KnownNetwork(ARCFACE, "identity", arcface.ArcFace(sizes), config)


def _codeformer(sizes: CodeFormerConfig) -> _KnownNetwork:
    config = dataclasses.asdict(sizes) | {"image_size": sizes.image_size, "heads": sizes.heads}
    return _KnownNetwork("codeformer", "codeformer", CodeFormer(sizes), config)


def _identify_upscaler(state: Mapping[str, Tensor]) -> Identity:
    """Identify an upscaler. Raises `UnsupportedModelError` if neither spandrel nor we know it."""
    with torch.device("meta"):
        layout = {key: torch.empty(shape) for key, shape in rrdbnet_shapes(state).items()}
    overlap = _overlap(layout, state)
    differences = list(_differences(layout, state)) if overlap >= _CORRUPT_OVERLAP else []
    corrupt_rrdbnet = (
        f"not a network of the restorer. The closest is Real-ESRGAN's RRDBNet, with {overlap:.0%} of the "
        f"tensor names in common: {_summarize(differences)}"
    )
    try:
        found = ModelLoader().load_from_state_dict(dict(state))
    except UnsupportedModelError as error:
        if differences:
            raise UnknownNetworkError(corrupt_rrdbnet) from error
        raise
    except (RuntimeError, KeyError, ValueError) as error:  # a known architecture, but incomplete
        if differences:
            raise UnknownNetworkError(corrupt_rrdbnet) from error
        raise UnknownNetworkError(
            f"like an upscaler, but corrupt: {_summarize(_load_errors(error))}"
        ) from error
    if differences and len(state) > len(found.model.state_dict()):  # spandrel ignores unexpected tensors
        raise UnknownNetworkError(corrupt_rrdbnet)
    name = found.architecture.name
    if not isinstance(found, ImageModelDescriptor) or found.purpose != "SR" or found.scale < 2:
        raise UnknownNetworkError(
            f"not a network of the restorer. It is a {name} for {found.purpose}, not an upscaler"
        )
    if (found.input_channels, found.output_channels) != (3, 3):
        raise UnknownNetworkError(f"not a network of the restorer. It is a {name} that does not work on RGB")
    config = {
        "architecture": name,
        "scale": found.scale,
        "input_channels": found.input_channels,
        "output_channels": found.output_channels,
        "tags": list(found.tags),
    }
    parameters = sum(parameter.numel() for parameter in found.model.parameters())
    return Identity("upscaler", "upscaler", config, parameters)


def _overlap(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> float:
    return len(expected.keys() & state.keys()) / len(expected.keys() | state.keys())


def _similarity(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[float, int]:
    """Return a sort key, greater for closer networks: the names in common, then the equal shapes."""
    shapes = sum(key in state and state[key].shape == tensor.shape for key, tensor in expected.items())
    return _overlap(expected, state), shapes


def _differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield why the tensors cannot be loaded. Wrong shapes come first: they are few and say the most."""
    for key, tensor in expected.items():
        if key in state and state[key].shape != tensor.shape:
            yield f"{key} has shape {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
    yield from (f"{key} is missing" for key in expected if key not in state)
    yield from (f"{key} is unexpected" for key in state if key not in expected)


def _load_errors(error: Exception) -> Iterator[str]:
    """Yield the same from torch's error message; any other message as it is."""
    text = str(error)
    shape = r"torch\.Size\(\[([\d, ]*)\]\)"
    wrong = re.findall(rf"size mismatch for (\S+): .*?{shape}.*?{shape}", text)
    yield from (f"{key} has shape ({given}), not ({expected})" for key, given, expected in wrong)
    problems = {"Missing": "is missing", "Unexpected": "is unexpected"}
    found = [(key, problem) for kind, problem in problems.items() for key in _keys(text, kind)]
    yield from (f"{key} {problem}" for key, problem in found)
    if not wrong and not found:
        yield f"{type(error).__name__}: {text}"


def _keys(text: str, kind: str) -> list[str]:
    line = re.search(rf"{kind} key\(s\) in state_dict: (.*)", text)
    return re.findall(r'"([^"]+)"', line[1]) if line else []


def _summarize(differences: Iterable[str]) -> str:
    differences = list(differences)
    rest = len(differences) - _MAX_LISTED
    return "; ".join(differences[:_MAX_LISTED]) + (f"; and {rest} more" if rest > 0 else "")
