"""The generator's settings: environment variables that start with ATELIER_GENERATOR_."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from atelier_runtime.settings import ServiceSettings


class GeneratorSettings(ServiceSettings):
    """Settings of the generator; see the base classes for the rest."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_GENERATOR_", frozen=True, extra="ignore")

    port: int = Field(50051, description="Port of the gRPC server; 0 picks a free one.", ge=0, le=65535)
    metrics_port: int = Field(9101, description="Port of /metrics; 0 picks a free one.", ge=0, le=65535)
