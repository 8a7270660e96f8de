"""Faces of photos: restore them, find them, compare fidelities.

There is no fallback for an unavailable restorer: if it fails, the request fails.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from atelier_gateway.core.backend import RestorerBackend
from atelier_gateway.core.signing import Signed, Signer, claim_of_restoration
from atelier_gateway.core.spending import spend_on
from atelier_gateway.core.values import CompareSpec, Detection, DetectSpec, Restoration, RestoreSpec
from atelier_runtime.errors import InternalError
from atelier_runtime.images import Format


class Faces:
    """Works on the faces of photos. A `deadline` is absolute, on the `time.monotonic()` clock."""

    def __init__(self, restorer: RestorerBackend, signer: Signer | None = None) -> None:
        """`signer`: of the files; None: they are not signed."""
        self._restorer = restorer
        self._signer = signer

    async def restore(self, spec: RestoreSpec, *, deadline: float) -> Restoration:
        """Restore the faces of an image."""
        await spend_on(spec)
        restoration = await self._restorer.restore(spec, deadline=deadline)
        return _without_needless_reason(await self._signed(restoration, spec), spec)

    async def compare(self, spec: CompareSpec, *, deadline: float) -> tuple[Restoration, ...]:
        """Restore an image at several fidelities, for little more than the cost of one; results in order."""
        await spend_on(spec)
        restorations = await self._restorer.compare(spec, deadline=deadline)
        if len(restorations) != len(spec.fidelities):
            raise InternalError(f"The restorer sent {len(restorations)} of {len(spec.fidelities)} images.")
        return tuple(
            [
                _without_needless_reason(await self._signed(restoration, spec.restore), spec.restore)
                for restoration in restorations
            ]
        )

    async def _signed(self, restoration: Restoration, spec: RestoreSpec) -> Restoration:
        image = restoration.image
        if self._signer is None or spec.metadata == "none" or image.format == "raw":
            return restoration
        signed = await asyncio.to_thread(_sign, self._signer, restoration, image.format, spec)
        return replace(
            restoration,
            image=replace(image, data=signed.file),
            warnings=signed.warnings(restoration.warnings),
        )

    async def detect(self, spec: DetectSpec, *, deadline: float) -> Detection:
        """Find the faces of an image."""
        await spend_on(spec)
        return await self._restorer.detect(spec, deadline=deadline)


def _sign(signer: Signer, restoration: Restoration, file_format: Format, spec: RestoreSpec) -> Signed:
    return signer.signed(restoration.image.data, file_format, claim_of_restoration(spec, restoration))


def _without_needless_reason(restoration: Restoration, spec: RestoreSpec) -> Restoration:
    """Drop the reason why no face was restored where one was, or none was requested."""
    if restoration.face_restoration_applied or spec.max_faces == 0:
        return replace(restoration, face_restoration_reason=None)
    return restoration
