"""`GET /v1/models` and `/v1/models/{id}`: the loaded model set."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.api.openai import openapi
from atelier_gateway.api.openai.errors import ModelNotFound
from atelier_gateway.api.openai.response import model_name
from atelier_gateway.core.health import Health, require_ready
from atelier_runtime.errors import ServiceUnavailable

PATH = "/v1/models"
_STARTED = int(time.time())


class OpenAIModel(BaseModel):
    """A model."""

    id: str = Field(examples=["SDXL"])
    object: Literal["model"] = "model"
    created: int = Field(description="When this gateway was started, in seconds since 1970.")
    owned_by: str


class OpenAIModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


class ModelRoutes:
    """The handlers."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.get(PATH, name="openai_models", **openapi.models_route(OpenAIModelList))(self.list_models)
        one = f"{PATH}/{{model:path}}"
        router.get(one, name="openai_model", **openapi.model_route(OpenAIModel))(self.get_model)

    async def list_models(self) -> Response:
        """Return the loaded set; nothing where there is no generator, on purpose."""
        answer = OpenAIModelList(data=await self._models())
        return Response(answer.model_dump_json(), media_type="application/json")

    async def get_model(self, request: Request) -> Response:
        """Return the loaded set, by its name."""
        name = request.path_params["model"]
        for model in await self._models():
            if model.id == name:
                return Response(model.model_dump_json(), media_type="application/json")
        raise ModelNotFound(name)

    async def _models(self) -> list[OpenAIModel]:
        system = await self._health.check_main()
        if system.restores_only:
            return []
        if system.generator is None:
            raise ServiceUnavailable("The generator cannot be reached.")
        require_ready(system.generator)
        name = model_name(system.generator.model_set)
        return [OpenAIModel(id=name, created=_STARTED, owned_by="atelier")]
