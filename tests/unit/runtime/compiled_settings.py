"""Settings of a service that compiles."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from atelier_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of no particular service."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_TEST_", frozen=True)

    port: int = 0
    metrics_port: int = 0
