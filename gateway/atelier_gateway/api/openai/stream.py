"""Images as server-sent events: previews while they are drawn, then the files."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from atelier_gateway.api.native.report import to_base64
from atelier_gateway.api.openai.errors import error_detail, told_by_client_names
from atelier_gateway.api.openai.request import ImageWork
from atelier_gateway.api.openai.response import model_name, shown, usage_of, warnings_of
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.values import GenerateSpec, Generation, Progress
from atelier_gateway.http.errors import log_and_count, unforeseen_error
from atelier_gateway.http.server_events import EVENT_HEADERS, HEARTBEAT
from atelier_runtime.errors import AtelierError, DeadlineExceeded

DONE = b"data: [DONE]\n\n"
_HEARTBEAT_S = 15.0
_GRACE_S = 2.0
"""For so long a response is not begun, so that what is refused has its own status."""


def named_event(name: str, data: Mapping[str, Any]) -> bytes:
    """Return an event as it is sent; JSON has no line ends."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))


async def with_previews(
    generate: Generate, spec: GenerateSpec, count: int, *, deadline: float
) -> tuple[GenerateSpec, str]:
    """Return a spec that reports at least `count` previews, spread over its steps, as far as it has so many.

    A model set that does not say what its latents look like has none. Beside it, the set's name if it was
    learned on the way.
    """
    if count == 0:
        return spec, ""
    estimate = await generate.estimate(spec, deadline=deadline)
    interval = interval_of([each.steps for each in estimate.generator.passes], count)
    return replace(spec, preview_interval_steps=interval), estimate.generator.model_set


def interval_of(steps: Sequence[int], count: int) -> int:
    """Return every how many steps of a pass there must be a preview, for `count` of them over all passes."""
    return max(1, min(sum(steps) // (count + 1), max(steps, default=1)))


class ImageStream:
    """Draws images in a task of its own and hands out what is to be sent, as it comes."""

    def __init__(
        self,
        generate: Generate,
        work: ImageWork,
        previewed: tuple[GenerateSpec, str],
        *,
        prefix: str,
        deadline: float,
    ) -> None:
        """`previewed`: see `with_previews`. `prefix`: of the events' names."""
        self._generate = generate
        self._work = work
        self._spec, self.model_set = previewed
        self._prefix = prefix
        self._deadline = deadline
        self._created = int(time.time())
        self._previews = 0
        self._queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    async def first(self) -> bytes:
        """Return the first event, or a heartbeat if there is none for two seconds.

        Raises what the work failed with before it; canceling cancels the work.
        """
        try:
            try:
                event = await asyncio.wait_for(self._queue.get(), _GRACE_S)
            except TimeoutError:
                await self._learn_model_set()
                return HEARTBEAT
            assert event is not None, "drawing images ends with events"
            if isinstance(event, Exception):
                raise event
            return event
        except BaseException:
            await self.end()
            raise
        finally:
            event = None  # an error keeps this frame, and would keep itself

    async def _learn_model_set(self) -> None:
        """Ask which model set draws, for the headers, unless it is known or cannot be learned now."""
        if not self.model_set:
            with contextlib.suppress(AtelierError):
                self.model_set = (await self._generate.offer()).status.model_set

    async def rest(self) -> AsyncIterator[bytes]:
        """Yield what comes after the first event, up to the end or an error."""
        while True:
            try:
                event = await asyncio.wait_for(self._queue.get(), _HEARTBEAT_S)
            except TimeoutError:
                yield HEARTBEAT
                continue
            if event is None:
                yield DONE
                return
            if isinstance(event, Exception):
                yield _error_event(event)
                return
            yield event

    async def end(self) -> None:
        """Cancel what is still going on."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        """Draw, and put the end or an error after the events. An error of a task would be kept by it."""
        try:
            await self._draw()
        except Exception as error:  # whatever it raises, the client is told
            self._queue.put_nowait(error)
        else:
            self._queue.put_nowait(None)

    async def _draw(self) -> None:
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())) as timeout:
                with told_by_client_names(self._work.names):
                    generations = await self._generate.run(
                        self._spec, self._on_progress, deadline=self._deadline
                    )
        except TimeoutError:
            if not timeout.expired():
                raise
            raise DeadlineExceeded() from None
        self.model_set = generations[0].model_set
        for event in await asyncio.to_thread(self._completed, generations):
            self._queue.put_nowait(event)

    def _on_progress(self, progress: Progress) -> None:
        """Hand on the previews of a step, up to as many as were asked for."""
        if not progress.previews or self._previews >= self._work.own.partial_images:
            return
        for number, preview in enumerate(progress.previews):
            data = {
                **self._of_each("partial_image", number, "jpeg", self._requested_size()),
                "partial_image_index": self._previews,
                "b64_json": base64.b64encode(preview).decode("ascii"),
            }
            self._queue.put_nowait(named_event(data["type"], data))
        self._previews += 1

    def _completed(self, generations: Sequence[Generation]) -> list[bytes]:
        """Return the events of finished images. Takes milliseconds per megabyte: not for the event loop."""
        events = []
        for number, generation in enumerate(generations):
            image = shown(generation)
            usage = usage_of(self._work, [image], generation.prompt_tokens, with_input=number == 0)
            size = f"{image.width}x{image.height}"
            warnings = warnings_of(self._work, [image])
            data = {
                **self._of_each("completed", number, self._work.own.output_format, size),
                "b64_json": to_base64(generation.image),
                "seed": image.seed,
                "faces": [face.model_dump(mode="json") for face in image.faces],
                "face_restoration_applied": image.face_restoration_applied,
                "face_restoration_reason": image.face_restoration_reason,
                "warnings": [warning.message for warning in warnings],
                "warning_codes": [warning.code for warning in warnings],
                "usage": usage.model_dump(),
            }
            events.append(named_event(data["type"], data))
        return events

    def _of_each(self, kind: str, number: int, output_format: str, size: str) -> dict[str, Any]:
        return {
            "type": f"{self._prefix}.{kind}",
            "created_at": self._created,
            "image_index": number,
            "size": size,
            "quality": self._work.quality.effective,
            "background": "opaque",
            "output_format": output_format,
            **({"model": model_name(self.model_set)} if self.model_set else {}),
        }

    def _requested_size(self) -> str:
        size = self._spec.result_size()
        return f"{size.width}x{size.height}"


def _error_event(error: Exception) -> bytes:
    """Return the event that tells of an error. Logs and counts it."""
    if isinstance(error, AtelierError):
        log_and_count(error)
        return named_event("error", {"error": error_detail(error).model_dump()})
    try:
        raise error
    except Exception:  # its traceback is for the log
        return named_event("error", {"error": error_detail(unforeseen_error()).model_dump()})
    finally:
        del error


class ImageStreamResponse(StreamingResponse):
    """The response that sends a stream; when it ends, in whatever way, so does the work."""

    def __init__(self, stream: ImageStream, first: bytes, headers: Mapping[str, str]) -> None:
        """`first`: what the stream has begun with."""

        async def events() -> AsyncIterator[bytes]:
            yield first
            async for event in stream.rest():
                yield event

        super().__init__(events(), media_type="text/event-stream", headers={**EVENT_HEADERS, **headers})
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. The framework cancels this when the client disconnects."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.end()
