"""A job's file as a response: all of it, a part of it, or that the client has it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from atelier_gateway.http.ranges import is_unchanged, requested_part
from atelier_gateway.jobs.blobs import BlobMissing
from atelier_gateway.jobs.service import Jobs
from atelier_gateway.jobs.values import Job, Output, now_ms
from atelier_runtime.errors import Gone

_MOST_CACHED_S = 86400


async def output_response(request: Request, jobs: Jobs, job: Job, output: Output) -> Response:
    """Respond with an output (RFC 9110: ETag, If-None-Match, Range, If-Range). Raises `Gone`."""
    etag = f'"{output.blob.replace("/", "-")}-{output.size_bytes}"'
    extension = output.content_type.removeprefix("image/")
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": f"private, max-age={_kept_s(job)}, immutable",
        "Content-Disposition": f'inline; filename="{job.id}-{output.name}.{extension}"',
    }
    if is_unchanged(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range") if request.headers.get("if-range", etag) == etag else None
    part = requested_part(wanted, output.size_bytes)
    if part is None:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{output.size_bytes}"})
    headers["Content-Length"] = str(part.end - part.start)
    if not part.is_all:
        headers["Content-Range"] = part.content_range
    try:  # before the response begins
        chunks = await jobs.read(output, part.start, part.end)
    except BlobMissing:
        raise Gone("The output has expired.") from None
    status = 200 if part.is_all else 206
    return StreamingResponse(chunks, status_code=status, headers=headers, media_type=output.content_type)


def _kept_s(job: Job) -> int:
    """Return for how long a copy may be used: not after the job has expired."""
    left_ms = job.ttl_ms if job.expires_at is None else job.expires_at - now_ms()
    return max(0, min(_MOST_CACHED_S, left_ms // 1000))
