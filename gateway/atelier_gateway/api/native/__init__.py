"""Atelier's own JSON contract: /generate, /restore, /detect, /compare, /v1/inspect, /v1/jobs, health."""

from __future__ import annotations

from fastapi import APIRouter

from atelier_gateway.api.native import faces as face_routes
from atelier_gateway.api.native import generate as generate_routes
from atelier_gateway.api.native import health as health_routes
from atelier_gateway.api.native import inspect as inspect_routes
from atelier_gateway.api.native.errors import NativeRoute
from atelier_gateway.api.native.jobs import JobRoutes
from atelier_gateway.core.faces import Faces
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.health import Health
from atelier_gateway.jobs.service import Jobs
from atelier_gateway.settings import GatewaySettings
from atelier_gateway.studio import Studio
from atelier_gateway.studio import add_routes as add_studio_routes


def create_router(
    settings: GatewaySettings,
    generate: Generate,
    faces: Faces,
    health: Health,
    jobs: Jobs | None,
    studio: Studio | None,
) -> APIRouter:
    """Return the contract's routes, and those of the page."""
    job_routes = JobRoutes(jobs, settings)
    router = APIRouter(route_class=NativeRoute)
    generate_routes.add_routes(router, settings, generate, job_routes)
    face_routes.add_routes(router, settings, faces, job_routes)
    inspect_routes.add_routes(router, settings)
    health_routes.add_routes(router, health, studio)
    job_routes.add_to(router)
    if studio is not None:
        add_studio_routes(router, studio)
    return router
