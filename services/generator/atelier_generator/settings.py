"""The generator's settings: environment variables that start with ATELIER_GENERATOR_."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from atelier_runtime.settings import ServiceSettings


class GeneratorSettings(ServiceSettings):
    """Settings of the generator; see the base classes for the rest."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_GENERATOR_", frozen=True, extra="ignore")

    port: int = Field(50051, description="Port of the gRPC server; 0 picks a free one.", ge=0, le=65535)
    metrics_port: int = Field(9101, description="Port of /metrics; 0 picks a free one.", ge=0, le=65535)
    max_batch: int = Field(
        0,
        ge=0,
        le=16,
        description="Waiting requests of the same size, steps and passes that are denoised together; 0: 4 on "
        "a device with 40 GB, 2 on one with 20 GB, else 1.",
    )
    memory: Literal["full", "offload"] = Field(
        "full",
        description="full: all networks stay on the device; offload: only those at work, for GPUs with 8 to "
        "12 GB, at the cost of copying them for each request.",
    )
