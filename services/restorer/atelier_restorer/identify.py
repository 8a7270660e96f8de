"""Tell which of the restorer's networks a checkpoint holds, from the names and shapes of its tensors."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from facexlib.detection.retinaface import RetinaFace
from facexlib.parsing.parsenet import ParseNet
from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
from torch import Tensor, nn

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.models import with_counters
from atelier_restorer.nets.codeformer import CodeFormer, CodeFormerConfig, sizes_of
from atelier_restorer.nets.rrdbnet_layout import rrdbnet_shapes

_NAMED = 10
_LIKELY = 0.5  # share of tensor names in common from which on a file is taken for a spoilt one of ours
_BACKBONES = ("resnet50", "mobile0.25")
_PARSER_CLASSES = 19  # of the published ParseNet


class UnknownNetworkError(ValueError):
    """The tensors are of no network that the restorer runs; the message says what is nearest."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """A network: its name, the role that it can take, its sizes, and how many numbers training adjusts."""

    network: str
    role: str
    config: Mapping[str, Any]
    parameters: int


def identify(state: Mapping[str, Tensor]) -> Identity:
    """Return what a checkpoint is: a network of faces, or an upscaler that spandrel knows.

    Raises:
        UnknownNetworkError: it is neither, or not all of one; the first ten tensors that tell it from the
            nearest network are named, the rest counted.
    """
    state = with_counters(state)
    nearest = max(_our_networks(state), key=lambda known: _likeness(known.network.state_dict(), state))
    share = _share(nearest.network.state_dict(), state)
    if share < _LIKELY:
        try:
            return _identify_upscaler(state)
        except UnsupportedModelError:
            pass  # not one either: told by what is nearest
    if differences := list(_differences(nearest.network.state_dict(), state)):
        raise UnknownNetworkError(
            f"no network of the restorer. Nearest is {nearest.name}, with {share:.0%} of the tensors' names "
            f"in common: {_first(differences)}"
        )
    parameters = sum(parameter.numel() for parameter in nearest.network.parameters())
    return Identity(nearest.name, nearest.role, nearest.config, parameters)


@dataclasses.dataclass(frozen=True)
class _Known:
    """One of our networks, on torch's meta device."""

    name: str
    role: str
    network: nn.Module
    config: Mapping[str, Any]


def _our_networks(state: Mapping[str, Tensor]) -> Iterator[_Known]:
    """Build each, with the sizes that the checkpoint's shapes tell where the network has a choice."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore", UserWarning)  # facexlib says pretrained=False, torchvision warns
        yield _codeformer(CodeFormerConfig())
        # Shapes may tell of sizes that no network can have.
        with contextlib.suppress(ValueError, ArithmeticError, RuntimeError):
            if (sizes := sizes_of(state)) != CodeFormerConfig():
                yield _codeformer(sizes)
        for backbone in _BACKBONES:
            network = RetinaFace(network_name=backbone, device=torch.device("meta"))
            width = network.fpn.output1[0].out_channels
            config = {"backbone": backbone, "pyramid_channels": width}
            yield _Known(network.model_name, "detector", network, config)
        parser = ParseNet(in_size=CROP_SIZE, out_size=CROP_SIZE, parsing_ch=_PARSER_CLASSES)
        yield _Known("parsenet", "parser", parser, {"image_size": CROP_SIZE, "classes": _PARSER_CLASSES})


def _codeformer(sizes: CodeFormerConfig) -> _Known:
    config = dataclasses.asdict(sizes) | {"image_size": sizes.image_size, "heads": sizes.heads}
    return _Known("codeformer", "codeformer", CodeFormer(sizes), config)


def _identify_upscaler(state: Mapping[str, Tensor]) -> Identity:
    """Ask spandrel. Raises `UnsupportedModelError` for what neither it nor we know."""
    with torch.device("meta"):
        layout = {key: torch.empty(shape) for key, shape in rrdbnet_shapes(state).items()}
    share = _share(layout, state)
    spoilt = list(_differences(layout, state)) if share >= _LIKELY else []
    of_a_known_kind = (
        f"no network of the restorer. Nearest is Real-ESRGAN's RRDBNet, with {share:.0%} of the tensors' "
        f"names in common: {_first(spoilt)}"
    )
    try:
        found = ModelLoader().load_from_state_dict(dict(state))
    except UnsupportedModelError as error:
        if spoilt:
            raise UnknownNetworkError(of_a_known_kind) from error
        raise
    except (RuntimeError, KeyError, ValueError) as error:  # of a known kind, but not all of it
        if spoilt:
            raise UnknownNetworkError(of_a_known_kind) from error
        raise UnknownNetworkError(f"like an upscaler, but not one: {_first(_complaints(error))}") from error
    if spoilt and len(state) > len(found.model.state_dict()):  # spandrel passes over what it has no place for
        raise UnknownNetworkError(of_a_known_kind)
    name = found.architecture.name
    if not isinstance(found, ImageModelDescriptor) or found.purpose != "SR" or found.scale < 2:
        raise UnknownNetworkError(
            f"no network of the restorer. It is a {name} for {found.purpose}, no upscaler"
        )
    if (found.input_channels, found.output_channels) != (3, 3):
        raise UnknownNetworkError(f"no network of the restorer. It is a {name} that does not work on RGB")
    config = {
        "architecture": name,
        "scale": found.scale,
        "input_channels": found.input_channels,
        "output_channels": found.output_channels,
        "tags": list(found.tags),
    }
    parameters = sum(parameter.numel() for parameter in found.model.parameters())
    return Identity("upscaler", "upscaler", config, parameters)


def _share(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> float:
    return len(expected.keys() & state.keys()) / len(expected.keys() | state.keys())


def _likeness(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[float, int]:
    """Return what is the greater, the nearer: first the names in common, among equals the shapes."""
    shapes = sum(key in state and state[key].shape == tensor.shape for key, tensor in expected.items())
    return _share(expected, state), shapes


def _differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield what keeps the tensors from being loaded. Wrong shapes first: they are few and tell most."""
    for key, tensor in expected.items():
        if key in state and state[key].shape != tensor.shape:
            yield f"{key} has shape {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
    yield from (f"{key} is missing" for key in expected if key not in state)
    yield from (f"{key} does not belong to it" for key in state if key not in expected)


def _complaints(error: Exception) -> Iterator[str]:
    """Yield the same from the text in which torch says it; any other text as it is."""
    text = str(error)
    shape = r"torch\.Size\(\[([\d, ]*)\]\)"
    wrong = re.findall(rf"size mismatch for (\S+): .*?{shape}.*?{shape}", text)
    yield from (f"{key} has shape ({given}), not ({wanted})" for key, given, wanted in wrong)
    listed = {"Missing": "is missing", "Unexpected": "does not belong to it"}
    found = [(key, words) for kind, words in listed.items() for key in _keys(text, kind)]
    yield from (f"{key} {words}" for key, words in found)
    if not wrong and not found:
        yield f"{type(error).__name__}: {text}"


def _keys(text: str, kind: str) -> list[str]:
    line = re.search(rf"{kind} key\(s\) in state_dict: (.*)", text)
    return re.findall(r'"([^"]+)"', line[1]) if line else []


def _first(differences: Iterable[str]) -> str:
    differences = list(differences)
    rest = len(differences) - _NAMED
    return "; ".join(differences[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")
