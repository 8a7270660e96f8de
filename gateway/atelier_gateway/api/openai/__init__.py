"""OpenAI's interface for images: /v1/images/generations, /v1/images/edits and /v1/models."""

from __future__ import annotations

from fastapi import APIRouter

from atelier_gateway.api.openai.errors import OpenAIRoute
from atelier_gateway.api.openai.images import PATH as IMAGES_PATH
from atelier_gateway.api.openai.images import ImageRoutes
from atelier_gateway.api.openai.models import PATH as MODELS_PATH
from atelier_gateway.api.openai.models import ModelRoutes
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.health import Health
from atelier_gateway.http.errors import ErrorRenderingRoute
from atelier_gateway.jobs.service import Jobs
from atelier_gateway.settings import GatewaySettings

ROUTE_CLASSES: dict[str, type[ErrorRenderingRoute]] = {IMAGES_PATH: OpenAIRoute, MODELS_PATH: OpenAIRoute}
"""What renders errors below which path."""


def create_router(
    settings: GatewaySettings, generate: Generate, health: Health, jobs: Jobs | None
) -> APIRouter:
    """Return the interface's routes."""
    router = APIRouter(route_class=OpenAIRoute)
    ImageRoutes(settings, generate, jobs).add_to(router)
    ModelRoutes(health).add_to(router)
    return router
