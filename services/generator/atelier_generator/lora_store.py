"""LoRAs in memory: loaded when first asked for, the least recently used dropped when the limit is reached."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from atelier_generator.lora_folder import LoraFolder
from atelier_generator.lora_tags import Lora, in_effect
from atelier_generator.nets.lora_file import Delta, LoraFile, NotALora, read_deltas
from atelier_generator.nets.lora_layers import Layer
from atelier_runtime import metrics
from atelier_runtime.checks import raise_violations
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.weights import CheckpointError

logger = logging.getLogger(__name__)

_ALIGNED_BYTES = 256  # as CUDA's allocator aligns; matrix products are slower from an odd address


@dataclass(eq=False)
class LoadedLora:
    """A LoRA's matrices, all in one block of memory; `layers`: the layers of peft that hold them."""

    name: str
    bytes: int
    deltas: Mapping[Layer, Delta]
    layers: dict[Layer, Any] = field(default_factory=dict)


Weighted = tuple[LoadedLora, float]
"""A LoRA and its weight in a request."""


@dataclass(eq=False)
class LoraStore:
    """The LoRAs of one generator, for any thread.

    `device`: where they are kept, which is the host if networks take turns on the device. Together they take
    at most `most_bytes`; beyond that, for moments: one that is being read, and those of the requests at work.
    """

    folder: LoraFolder = field(default_factory=LoraFolder)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    most_bytes: int = 0

    def __post_init__(self) -> None:
        """Begin without any."""
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, LoadedLora] = OrderedDict()
        self._reading = 0

    @property
    def bytes(self) -> int:
        """The memory that is taken, or set aside for what is being read."""
        return self._reading + sum(lora.bytes for lora in self._loaded.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of those in memory, the least recently used first."""
        return tuple(self._loaded)

    def violations(self, loras: Sequence[Lora]) -> list[FieldViolation]:
        """Return what is wrong with names: that there are not, or are more than fit into memory together."""
        found = {lora.name: self.folder.find(lora.name) for lora in loras}  # another thread may refuse one
        violations = [
            FieldViolation(lora.field, problem)
            for lora in loras
            if isinstance(problem := found[lora.name], str)
        ]
        if not violations:
            files = [found[lora.name] for lora in in_effect(loras)]
            needed = sum(file.bytes_in(self.dtype) for file in files if isinstance(file, LoraFile))
            if needed > self.most_bytes:
                violations.append(
                    FieldViolation(
                        loras[0].field,
                        f"these LoRAs take {needed >> 20} MB in memory together, the limit is "
                        f"{self.most_bytes >> 20} MB",
                    )
                )
        return violations

    def get(self, loras: Sequence[Lora]) -> tuple[Weighted, ...]:
        """Return the LoRAs that are in effect, loaded, in an order that does not depend on the request's.

        Raises `InvalidRequest` for one whose file turns out to be unusable, which is not offered from then
        on, and what the device raises if its memory runs out although all others have been dropped.
        """
        wanted = in_effect(loras)
        names = [lora.name for lora in wanted]
        return tuple((self._get(lora, names), lora.weight) for lora in wanted)

    def drop_idle(self, used: Sequence[Lora]) -> None:
        """Drop all but those that are used: the device has run short of memory."""
        with self._lock:
            self._drop(0, [lora.name for lora in used])

    def _get(self, lora: Lora, together_with: Sequence[str]) -> LoadedLora:
        with self._lock:
            if (known := self._loaded.get(lora.name)) is not None:
                self._loaded.move_to_end(lora.name)
                return known
        raise_violations(self.violations([lora]))
        file = self.folder.find(lora.name)
        if isinstance(file, str):  # another thread has refused it just now
            raise InvalidRequest([FieldViolation(lora.field, file)])
        needed = file.bytes_in(self.dtype)
        with self._set_aside(needed, together_with):
            start = time.perf_counter()
            try:
                loaded = self._load(file, together_with)
            except NotALora as error:
                reason = str(error)
            except CheckpointError as error:
                reason = str(error).removeprefix(str(file.path)).lstrip(": ")
            else:
                reason = ""
        if reason:
            logger.error("a LoRA cannot be used", extra={"file": str(file.path), "error": f"it {reason}"})
            self.folder.refuse(lora.name, reason)
            raise_violations(self.violations([lora]))
        seconds = round(time.perf_counter() - start, 3)
        logger.info("LoRA loaded", extra={"file": str(file.path), "bytes": needed, "seconds": seconds})
        with self._lock:
            self._loaded[lora.name] = loaded
            metrics.LORA_MEMORY.set(self.bytes)
        metrics.LORA_LOADS.inc()
        return loaded

    @contextmanager
    def _set_aside(self, needed: int, kept: Iterable[str]) -> Iterator[None]:
        """Make room, as far as LoRAs can be dropped that the request does not need."""
        with self._lock:
            self._drop(self.most_bytes - needed, kept)
            self._reading += needed
        try:
            yield
        finally:
            with self._lock:
                self._reading -= needed

    def _drop(self, most_bytes: int, kept: Iterable[str]) -> None:
        for name in [name for name in self._loaded if name not in kept]:
            if self.bytes <= most_bytes:
                break
            del self._loaded[name]
        metrics.LORA_MEMORY.set(self.bytes)

    def _load(self, file: LoraFile, kept: Iterable[str]) -> LoadedLora:
        deltas = read_deltas(file, self.dtype, self.folder.reader(file))
        try:
            return self._on_device(file.name, deltas)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Not inside `except`: there the exception's frames still hold the tensors of the failed attempt.
        with self._lock:
            self._drop(0, kept)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._on_device(file.name, deltas)

    def _on_device(self, name: str, deltas: Mapping[Layer, Delta]) -> LoadedLora:
        """Copy the matrices to the device in one block: each copy would wait for what the device is doing."""
        matrices = [matrix for delta in deltas.values() for matrix in (delta.down, delta.up)]
        step = _ALIGNED_BYTES // self.dtype.itemsize
        starts = [0]
        for matrix in matrices:
            starts.append(starts[-1] + -(-matrix.numel() // step) * step)
        # Tensors that are made in inference mode cannot be moved later, see placement.py.
        with torch.inference_mode(False), torch.no_grad():
            block = torch.zeros(starts[-1], dtype=self.dtype)
            for start, matrix in zip(starts, matrices, strict=False):
                block[start : start + matrix.numel()] = _in_order(matrix).flatten()
            block = block.to(self.device)
            if self.device.type == "cuda":
                # The text encoders' thread has a stream of its own; the steps of requests are in this one.
                block.record_stream(torch.cuda.default_stream(self.device))
            views = iter(
                _view(block[start : start + matrix.numel()], matrix)
                for start, matrix in zip(starts, matrices, strict=False)
            )
            placed = {layer: Delta(next(views), next(views), delta.scale) for layer, delta in deltas.items()}
        return LoadedLora(name, block.nbytes, placed)


def _in_order(matrix: Tensor) -> Tensor:
    """Return a convolution's weight with its channels last, as in the networks; others as they are."""
    return matrix.permute(0, 2, 3, 1) if matrix.ndim == 4 else matrix


def _view(values: Tensor, like: Tensor) -> Tensor:
    """Return values, in the order of `_in_order`, in the shape of a matrix."""
    view = values.view(_in_order(like).shape)
    return view.permute(0, 3, 1, 2) if like.ndim == 4 else view
