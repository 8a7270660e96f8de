"""The dialect of AUTOMATIC1111's web UI: /sdapi/v1, and what its clients ask for around it."""

from __future__ import annotations

from fastapi import APIRouter

from atelier_gateway.api.automatic1111.errors import Automatic1111Route
from atelier_gateway.api.automatic1111.lists import Lists
from atelier_gateway.api.automatic1111.loaded import Loads
from atelier_gateway.api.automatic1111.options import Options
from atelier_gateway.api.automatic1111.pictures import PictureRoutes
from atelier_gateway.api.automatic1111.running import Registry
from atelier_gateway.api.automatic1111.start_up import StartUpRoutes
from atelier_gateway.api.automatic1111.state import StateRoutes
from atelier_gateway.core.faces import Faces
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.health import Health
from atelier_gateway.settings import GatewaySettings

PREFIX = "/sdapi/v1"
PREFIXES = ("/sdapi", "/internal", "/queue")
"""Of paths at which every error has this dialect's form."""


def create_routers(
    settings: GatewaySettings, generate: Generate, faces: Faces, health: Health
) -> tuple[APIRouter, APIRouter]:
    """Return the routes below `PREFIX`, and those around it."""
    loads, options, registry = Loads(generate, health), Options(), Registry()
    inside = APIRouter(prefix=PREFIX, route_class=Automatic1111Route)
    PictureRoutes(settings, generate, faces, loads, options, registry).add_to(inside)
    StateRoutes(loads, options, registry).add_to(inside)
    Lists(loads).add_to(inside)
    around = APIRouter(route_class=Automatic1111Route)
    StartUpRoutes(loads).add_to(around)
    return inside, around
