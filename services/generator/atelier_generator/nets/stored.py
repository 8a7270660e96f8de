"""A network on disk: built on the meta device, compared tensor by tensor, then loaded.

Everything but `load` reads only the files' headers: a checkpoint of any size is checked within a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from torch import Tensor

from atelier_runtime.snapshot import Reader, take
from atelier_runtime.weights import CheckpointError, read_checkpoint

_MAX_LISTED = 10
_MOST_LEVELS = 32
# Many times what any network has.
_MOST = {
    **dict.fromkeys(("layers_per_block", "num_hidden_layers", "transformer_layers_per_block"), 1000),
    **dict.fromkeys(
        ("reverse_transformer_layers_per_block", "norm_num_groups", "num_attention_heads"), 10_000
    ),
    **dict.fromkeys(("block_out_channels", "down_block_types", "up_block_types", "hidden_size"), 1_000_000),
    **dict.fromkeys(("num_train_timesteps", "max_position_embeddings"), 1_000_000),
}
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
    """Where a checkpoint stores a tensor of a network: the key, and how to convert what is stored there."""

    key: str
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor


@dataclass(frozen=True)
class StoredNetwork:
    """One network of a pipeline, in one or more files.

    `tensors`: those that belong to it, by their keys in the files, on the meta device. `origins`: maps the
    network's own names to the origin of each tensor. `ignored`: tells whether a key may be left over.
    `read`: how the files are read when the weights are loaded.
    """

    part: str
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]
    origins: Callable[[Iterable[str]], Mapping[str, Origin]]
    ignored: Callable[[str], bool] = field(default=lambda key: False)
    read: Reader = take

    @property
    def class_name(self) -> str:
        """The class in diffusers or transformers."""
        return CLASSES[self.part]

    def empty(self) -> Any:
        """Return the network with its parameters on the meta device; see `empty_network`."""
        return empty_network(self.part, self.config)

    def check(self) -> None:
        """Raise `CheckpointError` if a tensor is missing, unexpected or of another shape."""
        if differences := self._differences(self.empty().state_dict()):
            rest = len(differences) - _MAX_LISTED
            more = f"; and {rest} more" if rest > 0 else ""
            raise CheckpointError(
                f"{self.part}: the tensors do not match {self.class_name} with this configuration: "
                f"{'; '.join(differences[:_MAX_LISTED])}{more}"
            )

    def load(self, dtype: torch.dtype, contents: Mapping[Path, Mapping[str, Tensor]] | None = None) -> Any:
        """Return the network on the CPU in `dtype`, ready to run. Raises `CheckpointError`.

        Tensors that are stored in that dtype are not copied. `contents`: the files' tensors, if they have
        been read already.
        """
        self.check()
        stored: dict[str, Tensor] = {}
        for path in self.files:
            stored |= contents[path] if contents else read_checkpoint(path, read=self.read)
        for key, tensor in self.tensors.items():
            if key not in stored or stored[key].shape != tensor.shape:
                raise CheckpointError(f"{self.part}: {key} changed while the files were read")
        network = self.empty()
        state = {
            name: origin.convert(stored[origin.key]).to(dtype).contiguous()
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
                shapes.append(f"{origin.key} has shape {tuple(found.shape)}, not {tuple(tensor.shape)}")
        return [  # wrong shapes first: there are few of them, and they say the most
            *shapes,
            *(f"{key} is missing" for key in missing),
            *(f"{key} is unexpected" for key in extra),
        ]


def _shape(origin: Origin, tensor: Tensor) -> tuple[int, ...] | None:
    try:
        return tuple(origin.convert(tensor).shape)
    except (RuntimeError, IndexError):  # too few dimensions to be converted
        return None


def check_counts(where: str, config: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` for a number of layers, levels or steps that would never end to be built."""
    for name, most in _MOST.items():
        values = config.get(name)
        if isinstance(values, list) and len(values) > _MOST_LEVELS:
            raise CheckpointError(
                f"{where}: {name} has {len(values)} entries, at most {_MOST_LEVELS} are possible"
            )
        for value in _numbers(values):
            if value > most:
                raise CheckpointError(f"{where}: {name} is {value}, at most {most} is possible")


def _numbers(values: object) -> Iterator[float]:
    if isinstance(values, list):
        for value in values:
            yield from _numbers(value)
    elif isinstance(values, int | float):
        yield values


def empty_network(part: str, config: Mapping[str, Any]) -> Any:
    """Return a part's network with its parameters on the meta device and its few buffers in memory.

    Raises `CheckpointError` if the class cannot be built with this configuration.
    """
    check_counts(part, config)
    class_name = CLASSES[part]
    library = _LIBRARIES[class_name]
    network_class = getattr(library, class_name)
    try:
        with init_empty_weights(include_buffers=False):
            if library is diffusers:
                return network_class.from_config(dict(config))
            # We choose the dtype ourselves, see models.py.
            plain = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
            return network_class(transformers.CLIPTextConfig(**plain))
    except Exception as error:  # whatever a value that makes no sense leads to
        raise CheckpointError(
            f"{part}: cannot build {class_name} with this configuration: {error}"
        ) from error
