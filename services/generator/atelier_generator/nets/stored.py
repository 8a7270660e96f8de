"""A network on disk: built without memory, compared tensor by tensor, then filled.

Everything but `load` reads the headers of the files only: a checkpoint of any size is judged in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from torch import Tensor

from atelier_runtime.weights import CheckpointError, read_checkpoint

_NAMED = 10
_LIBRARIES = {
    "UNet2DConditionModel": diffusers,
    "AutoencoderKL": diffusers,
    "CLIPTextModel": transformers,
    "CLIPTextModelWithProjection": transformers,
}
CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
"""The class of each network of an SDXL pipeline."""


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint keeps a tensor of a network: its name there, and how it is taken out."""

    key: str
    take: Callable[[Tensor], Tensor] = lambda tensor: tensor


@dataclass(frozen=True)
class StoredNetwork:
    """One network of a pipeline, in one or more files.

    `tensors`: those that belong to it, by their names in the files, on the meta device.
    `origins`: from the network's own names to where each tensor lies.
    """

    part: str
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]
    origins: Callable[[Iterable[str]], Mapping[str, Origin]]
    ignored: Callable[[str], bool] = field(default=lambda key: False)

    @property
    def class_name(self) -> str:
        """The class in diffusers or transformers."""
        return CLASSES[self.part]

    def empty(self) -> Any:
        """Return the network with parameters on the meta device, see `empty_network`."""
        return empty_network(self.part, self.config)

    def check(self) -> None:
        """Raise `CheckpointError` unless every tensor has its place and every place its tensor."""
        if differences := self._differences(self.empty().state_dict()):
            rest = len(differences) - _NAMED
            more = f"; and {rest} more" if rest > 0 else ""
            raise CheckpointError(
                f"{self.part}: the tensors are not those of a {self.class_name} of this configuration: "
                f"{'; '.join(differences[:_NAMED])}{more}"
            )

    def load(self, dtype: torch.dtype) -> Any:
        """Return the network on the CPU in a number format, ready to run. Raises `CheckpointError`.

        What is stored in that format already is mapped from the file, not copied.
        """
        self.check()
        stored: dict[str, Tensor] = {}
        for path in self.files:
            stored |= read_checkpoint(path)
        network = self.empty()
        state = {
            name: origin.take(stored[origin.key]).to(dtype).contiguous()
            for name, origin in self.origins(network.state_dict()).items()
        }
        network.load_state_dict(state, strict=True, assign=True)
        network.requires_grad_(False)
        return network.eval()

    def _differences(self, expected: Mapping[str, Tensor]) -> list[str]:
        origins = self.origins(expected)
        used = {origin.key for origin in origins.values()}
        missing = dict.fromkeys(o.key for o in origins.values() if o.key not in self.tensors)
        extra = [key for key in self.tensors if key not in used and not self.ignored(key)]
        shapes = []
        for name, tensor in expected.items():
            origin = origins[name]
            found = self.tensors.get(origin.key)
            if found is not None and _shape(origin, found) != tensor.shape:
                shapes.append(
                    f"{origin.key} has shape {tuple(found.shape)} where {tuple(tensor.shape)} belongs"
                )
        return [  # wrong shapes first: they are few and tell most
            *shapes,
            *(f"{key} is missing" for key in missing),
            *(f"{key} does not belong to it" for key in extra),
        ]


def _shape(origin: Origin, tensor: Tensor) -> tuple[int, ...] | None:
    try:
        return tuple(origin.take(tensor).shape)
    except (RuntimeError, IndexError):  # of too few dimensions to be taken apart
        return None


def empty_network(part: str, config: Mapping[str, Any]) -> Any:
    """Return the network of a part with parameters on the meta device, and its few buffers in memory.

    Raises `CheckpointError` if the class cannot be built with this configuration.
    """
    class_name = CLASSES[part]
    library = _LIBRARIES[class_name]
    network_class = getattr(library, class_name)
    try:
        with init_empty_weights(include_buffers=False):
            if library is diffusers:
                return network_class.from_config(dict(config))
            # The number format is ours to choose, see models.py.
            plain = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
            return network_class(transformers.CLIPTextConfig(**plain))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{part}: no {class_name} can be built with this configuration: {error}"
        ) from error
