"""OpenAI's interface for images: /v1/images/generations, /v1/images/edits and /v1/models."""

from __future__ import annotations

from fastapi import APIRouter

from atelier_gateway.api.openai.errors import OpenAIRoute
from atelier_gateway.api.openai.images import ImageRoutes
from atelier_gateway.api.openai.models import ModelRoutes
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.health import Health
from atelier_gateway.jobs.service import Jobs
from atelier_gateway.settings import GatewaySettings

PREFIX = "/v1"
"""Below it errors are OpenAI's, also where there is nothing; but for what other dialects have there."""


def create_router(
    settings: GatewaySettings, generate: Generate, health: Health, jobs: Jobs | None
) -> APIRouter:
    """Return the interface's routes."""
    router = APIRouter(route_class=OpenAIRoute)
    ImageRoutes(settings, generate, jobs).add_to(router)
    ModelRoutes(health).add_to(router)
    return router
