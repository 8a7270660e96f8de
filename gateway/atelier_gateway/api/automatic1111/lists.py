"""The lists that clients ask for at their start: what is loaded, and empty ones of what there is not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.api.automatic1111 import openapi
from atelier_gateway.api.automatic1111.loaded import (
    HASH_CHARS,
    LANCZOS,
    NO_UPSCALER,
    Loaded,
    Loads,
    schedule_name,
)
from atelier_gateway.core.offer import GeneratorOffer
from atelier_runtime.recipes.names import shown_sampler, shown_schedule
from atelier_runtime.service_status import ServiceStatus

_SCALE = re.compile(r"(?:^|[^0-9])x?([248])x?(?![0-9])", re.IGNORECASE)
_REFRESHES = ("checkpoints", "vae", "loras", "embeddings", "hypernetworks")

CMD_FLAGS: dict[str, Any] = {
    "api": True,
    "api_auth": None,
    "api_log": False,
    "api_server_stop": False,
    "gradio_auth": None,
    "listen": True,
    "nowebui": True,
    "lowvram": False,
    "medvram": False,
    "no_half": False,
    "ckpt": None,
    "lora_dir": None,
    "embeddings_dir": None,
}
"""The flags that the web UI would have been started with."""


class Lists:
    """The handlers."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        empty: list[Any] = []
        lists: dict[str, Callable[[Loaded], Any]] = {
            "sd-models": models,
            "samplers": lambda loaded: samplers(loaded.offer),
            "schedulers": lambda loaded: schedulers(loaded.offer),
            "upscalers": upscalers,
            "realesrgan-models": realesrgan_models,
            "loras": lambda loaded: loras(loaded.offer),
        }
        for name, content in lists.items():
            self._get(router, name, self._of_generator(content))
        self._get(router, "face-restorers", self.face_restorers)
        self._get(router, "memory", self.memory)
        constant: dict[str, Any] = {
            "latent-upscale-modes": empty,
            "sd-vae": empty,
            "sd-modules": empty,
            "hypernetworks": empty,
            "prompt-styles": empty,
            "script-info": empty,
            "scripts": {"txt2img": empty, "img2img": empty},
            "embeddings": {"loaded": {}, "skipped": {}},
            "cmd-flags": CMD_FLAGS,
        }
        for name, value in constant.items():
            self._get(router, name, _constant(value))
        for name in _REFRESHES:
            path, handler = f"/refresh-{name}", _constant(None)
            router.post(path, name=f"sdapi_refresh_{name}", **openapi.nothing(path))(handler)

    def _get(self, router: APIRouter, name: str, handler: Callable[[Request], Awaitable[Response]]) -> None:
        path = f"/{name}"
        router.get(path, name=f"sdapi_{name.replace('-', '_')}", **openapi.list_route(path))(handler)

    def _of_generator(self, content: Callable[[Loaded], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            return json_response(content(Loaded(await self._loads.generator(), None)))

        return handle

    async def face_restorers(self, request: Request) -> Response:
        """Return the restorer's network."""
        name = Loaded(None, await self._loads.restorer()).face_restorer
        return json_response([] if name is None else [{"name": name, "cmd_dir": None}])

    async def memory(self, request: Request) -> Response:
        """Return what the generator takes, without one the restorer."""
        offer = await self._loads.generator()
        status = await self._loads.restorer() if offer is None else offer.status
        return json_response({"ram": _ram(status), "cuda": _cuda(status)})


def _constant(value: Any) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        return json_response(value)

    return handle


def json_response(value: Any) -> Response:
    """Return a response of JSON; options have whatever clients set, such as integers of any size."""
    return Response(json.dumps(value), media_type="application/json")


def models(loaded: Loaded) -> list[dict[str, Any]]:
    """Return the loaded model set, as a checkpoint."""
    if not loaded.model_set:
        return []
    return [
        {
            "title": loaded.title,
            "model_name": loaded.model_set,
            "hash": loaded.digest[:HASH_CHARS] or None,
            "sha256": loaded.digest or None,
            "filename": f"{loaded.model_set}.safetensors",
            "config": None,
        }
    ]


def samplers(offer: GeneratorOffer | None) -> list[dict[str, Any]]:
    """Return the samplers by AUTOMATIC1111's names; ours are aliases."""
    offered = offer.samplers if offer is not None else ()
    return [
        {
            "name": shown_sampler(sampler.name),
            "aliases": list(dict.fromkeys([sampler.name, *sampler.aliases])),
            "options": {},
        }
        for sampler in offered
    ]


def schedulers(offer: GeneratorOffer | None) -> list[dict[str, Any]]:
    """Return the schedules that some sampler follows."""
    offered = offer.samplers if offer is not None else ()
    followed = dict.fromkeys(schedule for sampler in offered for schedule in sampler.schedules)
    labels = [(schedule, schedule_name(schedule), shown_schedule(schedule)) for schedule in followed]
    return [
        {
            "name": name,
            "label": label,
            "aliases": [schedule] if schedule != name else None,
            "default_rho": -1.0,
            "need_inner_model": False,
        }
        for schedule, name, label in labels
    ]


def upscalers(loaded: Loaded) -> list[dict[str, Any]]:
    """Return the upscalers: None, Lanczos and the network."""
    entries = [_upscaler(NO_UPSCALER, 1.0), _upscaler(LANCZOS, 4.0)]
    if (network := loaded.upscaler) is not None:
        entries.append({**_upscaler(network, _scale(network)), "model_name": network})
    return entries


def realesrgan_models(loaded: Loaded) -> list[dict[str, Any]]:
    """Return the network that upscales."""
    network = loaded.upscaler
    if network is None:
        return []
    return [{"name": network, "path": None, "scale": int(_scale(network))}]


def loras(offer: GeneratorOffer | None) -> list[dict[str, Any]]:
    """Return the LoRAs that prompts may name."""
    return [
        {
            "name": lora.name,
            "alias": lora.name,
            "path": f"{lora.name}.safetensors",
            "metadata": {"trigger_words": list(lora.trigger_words)},
        }
        for lora in (offer.loras if offer is not None else ())
    ]


def _upscaler(name: str, scale: float) -> dict[str, Any]:
    return {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": scale}


def _scale(network: str) -> float:
    found = _SCALE.search(network)
    return float(found[1]) if found else 4.0


def _ram(status: ServiceStatus | None) -> dict[str, Any]:
    used = status.process_memory_bytes if status is not None else None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"free": max(0, total - (used or 0)), "used": used or 0, "total": total}


def _cuda(status: ServiceStatus | None) -> dict[str, Any]:
    if status is None or status.vram_free_bytes is None or status.vram_total_bytes is None:
        return {"error": "unavailable"}
    free, total = status.vram_free_bytes, status.vram_total_bytes
    used = {"current": total - free, "peak": total - free}
    return {
        "system": {"free": free, "used": total - free, "total": total},
        "active": used,
        "allocated": used,
        "reserved": used,
        "inactive": {"current": 0, "peak": 0},
        "events": {"retries": 0, "oom": 0},
    }
