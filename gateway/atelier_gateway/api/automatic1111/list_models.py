"""The elements of this dialect's lists, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

# The names of these models are component names of the OpenAPI document: generated clients have them.


class _Item(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class Automatic1111Model(_Item):
    """A model set, as a checkpoint."""

    title: str = Field(examples=["sdxl [31e35c80fc]"])
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None


class Automatic1111Sampler(_Item):
    """A sampler."""

    name: str = Field(examples=["Euler a"])
    aliases: list[str]
    options: dict[str, Any]


class Automatic1111Scheduler(_Item):
    """A schedule."""

    name: str = Field(examples=["karras"])
    label: str = Field(examples=["Karras"])
    aliases: list[str] | None
    default_rho: float
    need_inner_model: bool


class Automatic1111Upscaler(_Item):
    """An upscaler."""

    name: str
    model_name: str | None
    model_path: str | None
    model_url: str | None
    scale: float


class RealesrganModel(_Item):
    """A network that upscales."""

    name: str
    path: str | None
    scale: int


class Automatic1111Lora(_Item):
    """A LoRA."""

    name: str
    alias: str
    path: str
    metadata: dict[str, Any]


class FaceRestorer(_Item):
    """A face restorer."""

    name: str = Field(examples=["CodeFormer"])
    cmd_dir: str | None


class ScriptLists(_Item):
    """There are no scripts."""

    txt2img: list[str]
    img2img: list[str]


class EmbeddingLists(_Item):
    """There are no embeddings."""

    loaded: dict[str, Any]
    skipped: dict[str, Any]


class MemoryAnswer(_Item):
    """Memory, in bytes."""

    ram: dict[str, Any]
    cuda: dict[str, Any]


class ProgressState(_Item):
    """What a request is doing."""

    skipped: bool
    interrupted: bool
    stopping_generation: bool
    job: str
    job_count: int
    job_timestamp: str
    job_no: int
    sampling_step: int
    sampling_steps: int


class ProgressAnswer(_Item):
    """How far a caller's request is."""

    progress: float = Field(description="0 to 1; 0 where none runs.")
    eta_relative: float = Field(description="Seconds that it will take, about.")
    state: ProgressState
    current_image: str | None = Field(description="A preview as base64, JPEG.")
    textinfo: str | None = Field(description="The stage.")
