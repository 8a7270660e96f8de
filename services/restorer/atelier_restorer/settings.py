"""The restorer's settings: environment variables that start with ATELIER_RESTORER_."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from atelier_runtime import settings


class RestorerSettings(settings.ServiceSettings):
    """Settings of the restorer; see the base classes for the rest."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_RESTORER_", frozen=True, extra="ignore")

    port: int = Field(50052, ge=0, le=65535, description="Port of the gRPC server; 0 picks a free one.")
    metrics_port: int = Field(9102, ge=0, le=65535, description="Port of /metrics; 0 picks a free one.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="dtype that CodeFormer generates in, and of face parser and upscaler; auto: bfloat16 on "
        "a GPU or CPU that computes in it, else float32. Faces are found in float32; GFPGAN, RestoreFormer, "
        "BiSeNet and ArcFace run in float32.",
    )
    encoder_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="dtype that CodeFormer selects codes in. bfloat16 is faster where the device computes in "
        "it, but selects other codes for about one part of a face in a hundred.",
    )
    codeformer: str = Field(
        "",
        description="Checkpoint file to use instead of the model set's face restorer: CodeFormer, GFPGAN or "
        "RestoreFormer.",
    )
    detector: str = Field("", description="Checkpoint file to use instead of the model set's face detector.")
    parser: str = Field(
        "",
        description="Checkpoint file to use instead of the model set's face parser: ParseNet or BiSeNet.",
    )
    upscaler: str = Field("", description="Checkpoint file to use instead of the model set's upscaler.")
    identity: str = Field(
        "",
        description="File to use instead of the model set's network that tells people apart: ONNX, or a "
        "checkpoint of ArcFace.",
    )
    min_similarity: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Least likeness (cosine) that the guard asks for unless a request says otherwise. "
        "Default: the model set's, which holds for its own identity network only.",
    )
    min_certainty: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Certainty below which a face is too ruined to tell whose it is. Default: the model "
        "set's, which holds for its own identity network only, or 0.05.",
    )
    max_batch: int = Field(
        0,
        ge=0,
        le=64,
        description="Faces per forward pass; 0: 16 on a device with 20 GiB, 8 on a smaller one, 4 on a CPU.",
    )
    report_confidence: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Faces below this confidence are not reported, not even as low_confidence.",
    )
