"""What clients ask for outside of /sdapi/v1 before they begin: Gradio's routes, as far as they read them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway import __version__
from atelier_gateway.api.automatic1111 import openapi
from atelier_gateway.api.automatic1111.lists import json_response, loras, upscalers
from atelier_gateway.api.automatic1111.loaded import NO_UPSCALER, Loaded, Loads

_QUEUE: dict[str, Any] = {
    "msg": "estimation",
    "rank": None,
    "queue_size": 0,
    "avg_event_process_time": None,
    "avg_event_concurrent_process_time": None,
    "rank_eta": None,
    "queue_eta": 0,
}


class StartUpRoutes:
    """The handlers."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.get("/internal/ping", name="a1111_ping", **openapi.PING)(self.ping)
        router.get("/config", name="gradio_config", **openapi.CONFIG)(self.config)
        router.get("/queue/status", name="gradio_queue_status", **openapi.QUEUE)(self.queue)
        router.post("/login", name="gradio_login", **openapi.LOGIN)(self.login)

    async def ping(self, request: Request) -> Response:
        """Say that the gateway is there."""
        return json_response({})

    async def config(self, request: Request) -> Response:
        """Return the components of the web UI's page whose choices clients read."""
        loaded = Loaded(await self._loads.generator(), None)
        choices = {
            "setting_sd_lora": (
                "Add LoRA to prompt",
                ["None", *(each["name"] for each in loras(loaded.offer))],
            ),
            "txt2img_hr_upscaler": ("Upscaler", [each["name"] for each in upscalers(loaded)]),
        }
        components = [
            {
                "id": number,
                "type": "dropdown",
                "props": {
                    "elem_id": elem_id,
                    "label": label,
                    "choices": names,
                    "value": NO_UPSCALER,
                    "visible": True,
                },
            }
            for number, (elem_id, (label, names)) in enumerate(choices.items(), 1)
        ]
        return json_response(
            {
                "version": __version__,
                "mode": "blocks",
                "title": "Atelier",
                "components": components,
                "dependencies": [],
            }
        )

    async def queue(self, request: Request) -> Response:
        """Return a queue of nobody: each caller's request waits in the services' queues."""
        return json_response(_QUEUE)

    async def login(self, request: Request) -> Response:
        """Accept anyone: there are no accounts."""
        return json_response({"success": True})
