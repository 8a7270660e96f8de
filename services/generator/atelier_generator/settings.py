"""The generator's settings: environment variables that start with ATELIER_GENERATOR_."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from atelier_runtime import defaults
from atelier_runtime.settings import ServiceSettings
from atelier_runtime.sizes import Size

_MAX_WARM_SIZES = 16  # each takes minutes to compile
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


def read_sizes(text: str) -> tuple[Size, ...]:
    """Read `1024x1024, 832x1216`, each a size that a request may have. Raises `ValueError`."""
    lowest, highest = defaults.SIDE_PX_RANGE
    sizes: dict[Size, None] = {}
    for part in (part.strip() for part in text.split(",")):
        match = _SIZE.fullmatch(part)
        if match is None:
            raise ValueError(f"'{part}' is not a size: write WIDTHxHEIGHT in px, separated by commas")
        size = Size(int(match[1]), int(match[2]))
        if any(not lowest <= side <= highest or side % defaults.SIDE_PX_MULTIPLE for side in size):
            raise ValueError(
                f"no request may have {part}: sides are {lowest} to {highest} px, in multiples of "
                f"{defaults.SIDE_PX_MULTIPLE}"
            )
        sizes[size] = None
    if len(sizes) > _MAX_WARM_SIZES:
        raise ValueError(f"{len(sizes)} sizes are more than {_MAX_WARM_SIZES}")
    return tuple(sizes)


def _check_sizes(text: str) -> str:
    read_sizes(text)
    return text


class GeneratorSettings(ServiceSettings):
    """Settings of the generator; see the base classes for the rest."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_GENERATOR_", frozen=True, extra="ignore")

    port: int = Field(50051, description="Port of the gRPC server; 0 picks a free one.", ge=0, le=65535)
    metrics_port: int = Field(9101, description="Port of /metrics; 0 picks a free one.", ge=0, le=65535)
    max_batch: int = Field(
        0,
        ge=0,
        le=16,
        description="Waiting requests of the same size, steps and passes that are denoised together, of the "
        "one that is next and at most QUEUE_CAPACITY others; 0: 4 on a device with 40 GB, 2 on one with "
        "20 GB, else 1.",
    )
    memory: Literal["full", "offload"] = Field(
        "full",
        description="full: all networks stay on the device; offload: only those at work, for GPUs with 8 to "
        "12 GB, at the cost of copying them for each request.",
    )
    loras: str = Field(
        "",
        description="Folder of LoRAs that requests may name, as safetensors files; empty: the folder loras "
        "of the model set, if it has one.",
    )
    lora_memory_mb: int = Field(
        2048,
        ge=1,
        le=1_000_000,
        description="Memory, of the device or with MEMORY=offload of the host, that loaded LoRAs may take "
        "together; the least recently used are dropped.",
    )
    warm_sizes: Annotated[str, AfterValidator(_check_sizes)] = Field(
        f"{defaults.SIDE_PX}x{defaults.SIDE_PX}",
        description="Sizes of requests, separated by commas, that networks are compiled for, with and "
        "without hires fix, guidance and refiner, for batches of 1 to MAX_BATCH. Requests of other sizes run "
        "as with COMPILE=off.",
    )
