"""From a prompt to the finished image: generate, restore, encode. What was skipped is reported, never hidden.

The restorer is called if faces are to be restored or the image upscaled. Then the generator sends raw pixels
and the restorer encodes; otherwise the generator encodes the final file itself. Only if the restorer fails
and the generated image is returned as it is, the gateway encodes, in a thread.

An image that was generated waits for a slot in the restorer's queue until its deadline: its work is done, and
nobody wants it without the faces that were asked for. While many wait, new requests are refused instead
(`waiting_room`).

Of several images each is restored as soon as it arrives, while the generator works on the next (`hand_over`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial

from atelier_gateway.core.backend import GeneratorBackend, RestorerBackend
from atelier_gateway.core.drawings import NOT_KEPT, Drawings, drawn_once
from atelier_gateway.core.estimates import Estimate
from atelier_gateway.core.hand_over import AT_ONCE, hand_over, only_one
from atelier_gateway.core.health import require_ready
from atelier_gateway.core.offer import GeneratorOffer
from atelier_gateway.core.recipe import as_drawn, recipe_writer
from atelier_gateway.core.restoration_costs import RestorationCosts
from atelier_gateway.core.results import restored, unrestored
from atelier_gateway.core.signing import Signer
from atelier_gateway.core.spending import spend_on
from atelier_gateway.core.values import (
    GeneratedImage,
    GenerateSpec,
    Generation,
    OnImage,
    OnProgress,
    Progress,
    Restoration,
    RestoreSpec,
    ignore_progress,
)
from atelier_gateway.core.waiting_room import WaitingRoom
from atelier_gateway.core.without_generator import NoGenerator
from atelier_runtime import defaults, metrics
from atelier_runtime.checks import check_last_seed
from atelier_runtime.cost_model import total
from atelier_runtime.errors import (
    AtelierError,
    BadImage,
    ErrorReason,
    FieldViolation,
    InternalError,
    InvalidRequest,
    OutOfMemory,
    ServiceUnavailable,
)
from atelier_runtime.images import EncodedImage, InputImage, decode_input, encode_output
from atelier_runtime.metrics import StageTimer
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode
from atelier_runtime.service_status import NetworkRole, ServiceStatus
from atelier_runtime.sizes import Size

logger = logging.getLogger(__name__)

WORTH_WAITING_FOR = frozenset(
    {
        ErrorReason.QUEUE_FULL,
        ErrorReason.SERVICE_NOT_READY,
        ErrorReason.SERVICE_DRAINING,
        ErrorReason.SERVICE_UNAVAILABLE,
        ErrorReason.DEADLINE_UNMEETABLE,
    }
)
"""A service is full or away. Later the same request may succeed."""

RESTORE_STAGE = "restore"
"""The stage of the progress events that say that a generated image went to the restorer."""

_RESTORER_FAULTS = frozenset(
    {SkipReason.FAILED, SkipReason.NOT_FINITE, SkipReason.OUT_OF_MEMORY, SkipReason.NOT_LOADED}
)
"""Skip reasons that are due to the restorer, not to the image."""

_SKIP_REASONS = {
    ErrorReason.OUT_OF_MEMORY: SkipReason.OUT_OF_MEMORY,
    ErrorReason.INTERNAL: SkipReason.FAILED,
    ErrorReason.BAD_IMAGE: SkipReason.FAILED,
    ErrorReason.INVALID_REQUEST: SkipReason.FAILED,
    ErrorReason.QUEUE_FULL: SkipReason.RESTORER_BUSY,
    ErrorReason.DEADLINE_UNMEETABLE: SkipReason.RESTORER_BUSY,
}
"""What is reported where the call to the restorer failed; for any other error, `RESTORER_UNAVAILABLE`."""

_MAX_RESERVE_S = 5.0
_RESERVED_SHARE = 0.1


class Generate:
    """Generates images and restores their faces, with the two services."""

    def __init__(
        self,
        generator: GeneratorBackend,
        restorer: RestorerBackend,
        *,
        max_pixels: int,
        signer: Signer | None = None,
    ) -> None:
        """`signer`: of the files; None: they are not signed."""
        self._generator = generator
        self._signer = signer
        self._restorer = restorer
        self._max_pixels = max_pixels
        self._restoration_costs = RestorationCosts()
        self._waiting_room = WaitingRoom(lambda: restorer.waiting_for_slot)
        for reason in (*_SKIP_REASONS.values(), SkipReason.RESTORER_UNAVAILABLE):
            metrics.UNRESTORED_IMAGES.labels(reason)  # from 0, so that the first one is an increase

    async def require_generator(self) -> None:
        """Raise `NotServed` where there is no generator, on purpose; whether one responds is not checked."""
        if isinstance(self._generator, NoGenerator):
            await self._generator.refuse()

    async def offer(self) -> GeneratorOffer:
        """Return what requests may choose. Raises `NotServed` where there is no generator."""
        return await self._generator.offer()

    async def loaded(self) -> tuple[ServiceStatus, ServiceStatus]:
        """Return the status of the generator, which must be ready, and of the restorer."""
        generator = await self._generator.status()
        require_ready(generator)
        return generator, await self._restorer.status()

    def violations(self, spec: GenerateSpec) -> list[FieldViolation]:
        """Return what can be found without calling a service: pixels or seeds above the limits."""
        size, count = spec.result_size(), spec.image_count
        seeds = list(check_last_seed(spec.seed, count))
        if size.pixels <= self._max_pixels:
            pixels = count * size.pixels
            if pixels <= self._max_pixels:  # they are held together until the response is written
                return seeds
            message = f"{count} images of {size} have {pixels} px together, the limit is {self._max_pixels}"
            return [*seeds, FieldViolation("num_images", message)]
        message = f"the final image would be {size} = {size.pixels} px, the limit is {self._max_pixels}"
        upscaling = {
            "upscale": spec.upscale > 1,
            "hires_fix": spec.hires_fix,
            "hires_pass": spec.hires_pass is not None,
            "lanczos_scale": spec.lanczos_scale is not None,
        }
        sides = ("image",) if spec.own_size else ("width", "height")
        fields = (*sides, *(field for field, is_set in upscaling.items() if is_set))
        return [*seeds, *(FieldViolation(field, message) for field in fields)]

    async def run(
        self,
        spec: GenerateSpec,
        on_progress: OnProgress = ignore_progress,
        *,
        deadline: float,
        drawings: Drawings = NOT_KEPT,
        can_wait: bool = False,
        only: int | None = None,
    ) -> list[Generation]:
        """Carry out a spec; `deadline` is an absolute deadline on the `time.monotonic()` clock.

        Returns the images in the order of their seeds. `drawings` keeps what goes to the restorer.
        `can_wait`: whoever calls comes back later if the restorer is full or away, rather than take images
        as they are. `only`: the number, from 0, of the one image that is wanted: the others are drawn with
        it, as it would be another one without them, and go no further.

        Raises:
            AtelierError: an image is missing. Canceling the task stops the services' work.
        """
        if violations := self.violations(spec):
            raise InvalidRequest(violations)
        warnings = await self._check_names(spec)
        await spend_on(spec)
        write_recipe = await recipe_writer(spec, self._signer)
        plain = replace(spec, metadata="none")  # what a recipe says is known here, at the end
        if not spec.restored:
            generate = partial(self._generator.generate, plain, on_progress=on_progress, deadline=deadline)

            async def as_it_is(number: int, generated: GeneratedImage) -> Generation:
                return await write_recipe(unrestored(spec, generated, None, warnings), number, None)

            return await hand_over(*only_one(generate, as_it_is, only))
        raw_spec = replace(plain, output_format="raw")
        draw_raw = partial(self._generator.generate, raw_spec, on_progress=on_progress, deadline=deadline)
        restore_until: float | None = None

        async def finish(number: int, generated: GeneratedImage) -> Generation:
            nonlocal restore_until
            on_progress(Progress(RESTORE_STAGE, number, spec.image_count))
            if spec.on_restore_failure == "fail":
                restoration = await self._restore_or_fail(spec, generated, number, deadline, can_wait)
                generation = restored(spec, generated, restoration, warnings)
                return await write_recipe(generation, number, restoration)
            if restore_until is None:
                # A restorer that hangs must leave the time to encode the generated images.
                reserve = min(_MAX_RESERVE_S, _RESERVED_SHARE * max(0.0, deadline - time.monotonic()))
                restore_until = deadline - reserve
            try:
                restoration = await self._restore(spec, generated, restore_until, can_wait)
            except AtelierError as error:
                if can_wait and error.reason in WORTH_WAITING_FOR:
                    raise
                generation = await self._fall_back(spec, generated, error, warnings)
                return await write_recipe(generation, number, None)
            return await write_recipe(restored(spec, generated, restoration, warnings), number, restoration)

        async def draw_in_turn(on_image: OnImage) -> None:
            with self._waiting_room.enter(min(count, AT_ONCE)) as leave:

                async def leave_first(number: int, drawn: GeneratedImage) -> None:
                    if only is None or number == only:
                        leave()
                    await on_image(number, drawn)

                await draw_raw(leave_first)

        draw, finish_one = only_one(draw_in_turn, finish, only)
        count = spec.image_count if only is None else 1
        drawn_spec = as_drawn(spec)
        write_drawn = write_recipe if drawings is NOT_KEPT else await recipe_writer(drawn_spec, self._signer)

        async def finish_drawn(number: int, drawn: GeneratedImage, file: EncodedImage) -> EncodedImage:
            generation = unrestored(drawn_spec, replace(drawn, image=file), None, warnings)
            return (await write_drawn(generation, number if only is None else only, None)).image

        return await hand_over(drawn_once(draw, drawings, count, finish_drawn), finish_one)

    async def estimate(self, spec: GenerateSpec, *, deadline: float) -> Estimate:
        """Return what `run` is expected to take, and raise what it would refuse of the spec; runs nothing."""
        if violations := self.violations(spec):
            raise InvalidRequest(violations)
        warnings = await self._check_names(spec)
        generated = replace(spec, output_format="raw") if spec.restored else spec
        generator = await self._generator.estimate(generated, deadline=deadline)
        restoration = self._restoration_costs.estimate(spec) if spec.restored else None
        return Estimate(
            generator=generator,
            restored=spec.restored,
            restoration=restoration,
            cost=generator.cost if restoration is None else total([generator.cost, restoration]),
            result=Size(generator.size.width * spec.upscale, generator.size.height * spec.upscale),
            warnings=(*warnings, *generator.warnings),
        )

    async def _check_names(self, spec: GenerateSpec) -> list[ResponseWarning]:
        """Refuse names of networks that are not loaded; return a warning for what could not be checked.

        Before it come the spec's own warnings.
        """
        violations: list[FieldViolation] = []
        warnings = list(spec.warnings)
        if spec.model_set is not None:
            status = await self._generator.status()
            require_ready(status)  # until then, no name is right or wrong
            if spec.model_set != status.model_set:
                violations.append(FieldViolation("model_set", f"is not loaded; {status.model_set} is"))
        if spec.face_detector is not None:
            problem = await self._check_face_detector(spec.face_detector)
            if isinstance(problem, FieldViolation):
                violations.append(problem)
            elif problem is not None:
                warnings.append(problem)
        if violations:
            raise InvalidRequest(violations)
        return warnings

    async def _check_face_detector(self, name: str) -> FieldViolation | ResponseWarning | None:
        try:
            status = await self._restorer.status()
        except ServiceUnavailable:
            return _not_checked("the restorer cannot be reached")
        loaded = status.network(NetworkRole.FACE_DETECTOR)
        if loaded is None and not status.ready:
            return _not_checked("the restorer is loading its networks")
        if loaded is None:
            return FieldViolation(
                "face_detector", "is not loaded; the model set does not have a face detector"
            )
        if loaded != name:
            return FieldViolation("face_detector", f"is not loaded; {loaded} is")
        return None

    async def _restore(
        self, spec: GenerateSpec, generated: GeneratedImage, deadline: float, can_wait: bool
    ) -> Restoration:
        raw = generated.image
        restore_spec = RestoreSpec(
            image=InputImage(raw.data, raw.format, raw.width, raw.height),
            fidelity=spec.fidelity,
            max_faces=None if spec.restore_faces else 0,
            look="once",  # what is drawn stands upright
            identity="off",  # nobody it should look like, and no response to tell it
            match_tone=spec.match_tone,
            upscale=spec.upscale,
            use_upscaler=spec.use_upscaler,
            output_format=spec.output_format,
            quality=spec.quality,
            metadata="none",
        )
        with self._restoration_costs.measured(spec):
            return await self._restorer.restore(restore_spec, deadline=deadline, wait_for_slot=not can_wait)

    async def _restore_or_fail(
        self, spec: GenerateSpec, generated: GeneratedImage, number: int, deadline: float, can_wait: bool
    ) -> Restoration:
        of_several = f"image {number + 1} of {spec.image_count} (seed {generated.seed})"
        try:
            restoration = await self._restore(spec, generated, deadline, can_wait)
        except (InternalError, BadImage) as error:
            logger.error("restorer failed", extra=error.for_log())
            if can_wait:  # it is there, and fails: not worth waiting for
                raise
            where = f" at {of_several}" if spec.image_count > 1 else ""
            raise ServiceUnavailable(f"The restorer failed{where}.") from error
        reason = restoration.face_restoration_reason
        if not spec.restore_faces or restoration.face_restoration_applied or reason not in _RESTORER_FAULTS:
            return restoration
        if reason is SkipReason.OUT_OF_MEMORY:
            raise OutOfMemory()
        where = f" of {of_several}" if spec.image_count > 1 else ""
        message = f"The restorer restored no face{where}: {reason}."
        raise InternalError(message) if can_wait else ServiceUnavailable(message)

    async def _fall_back(
        self,
        spec: GenerateSpec,
        generated: GeneratedImage,
        error: AtelierError,
        warnings: list[ResponseWarning],
    ) -> Generation:
        """Return the generated image as it is."""
        logger.warning("restorer failed", extra=error.for_log())
        reason = _SKIP_REASONS.get(error.reason, SkipReason.RESTORER_UNAVAILABLE)
        timer = StageTimer()
        image = await asyncio.to_thread(_encode, spec, generated.image, self._max_pixels, timer)
        encoded = replace(generated, image=image, stages=(*generated.stages, *timer.reports))
        metrics.UNRESTORED_IMAGES.labels(reason).inc()
        return unrestored(spec, encoded, reason, [*warnings, _fallback_warning(spec, reason)])


def _encode(spec: GenerateSpec, raw: EncodedImage, max_pixels: int, timer: StageTimer) -> EncodedImage:
    with timer.stage("encode"):
        try:
            pixels = decode_input(
                InputImage(raw.data, raw.format, raw.width, raw.height), max_pixels=max_pixels
            )
        except InvalidRequest as error:
            raise InternalError(f"The generator's image cannot be read: {error.message}") from error
        quality = defaults.QUALITY if spec.quality is None else spec.quality
        return encode_output(pixels, spec.output_format, quality)


def _not_checked(cause: str) -> ResponseWarning:
    return ResponseWarning(WarningCode.NOT_CHECKED, f"The face detector was not checked: {cause}.")


def _fallback_warning(spec: GenerateSpec, reason: SkipReason) -> ResponseWarning:
    skipped = ["faces were not restored"] if spec.restore_faces else []
    skipped += [f"the image was not upscaled x{spec.upscale}"] if spec.upscale > 1 else []
    message = (
        f"The restorer failed ({reason}): {' and '.join(skipped)}. This is the generated image as it is."
    )
    return ResponseWarning(WarningCode.RESTORER_FAILED, message)
