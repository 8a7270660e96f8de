"""Generating images: base pass, upscaling, second pass or refiner, guards.

    [encode] ▶ base ▶ [refiner] ▶ decode ▶ [upscale] ▶ [compose]    without hires fix
    base ▶ decode ▶ upscale ▶ encode ▶ hires ▶ decode ▶ [upscale]   with it, or with a hires pass

What is encoded first is the image to start from, if there is one. With a mask, the base pass is that of the
inpainting UNet, if the set has one, and in the end what was drawn is put into the image.

The prompt is encoded before, in a thread of its own (`prompts`).

Before a refiner that works at a larger size than its base, the image is upscaled as for hires fix.

Requests whose passes agree run together, as a `Batch`: they share the UNet's forward passes and nothing else.
So do the images of one request, as an `ImageGroup`; they share the prompt too, and one that fails ends all.
All of it but `finish` runs on the device thread. A request is canceled when its `check` raises: within one
denoising step, before each decode, and before each tile of an upscaling. No state of a request outlives it:
its noise and its schedulers are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from atelier_generator.denoising import Conditions
from atelier_generator.estimates import Estimate, Estimator
from atelier_generator.generation import (
    Batch,
    EveryRequestEnded,
    Generation,
    Progress,
    Run,
    Start,
)
from atelier_generator.image_group import ImageGroup, ProgressTogether, named_error, sharing_on
from atelier_generator.lora_folder import LoraFolder
from atelier_generator.lora_tags import in_effect
from atelier_generator.models import Models
from atelier_generator.passes import Denoiser
from atelier_generator.pixels import PixelStages
from atelier_generator.plan import Passes, Plan, count_steps, strength_problem
from atelier_generator.planning import plan_request
from atelier_generator.prompts import PendingPrompt, PromptEncoder
from atelier_generator.request import CompletedRequest, GenerateRequest
from atelier_generator.samplers import OWN, read_choice
from atelier_runtime.checks import raise_violations
from atelier_runtime.errors import FieldViolation, OutOfMemory
from atelier_runtime.latent_colors import SDXL_COLORS
from atelier_runtime.metrics import StageTimer
from atelier_runtime.weights import ModelSet


class Pipeline:
    """Generates images with the networks of one model set."""

    def __init__(self, models: Models, *, max_batch: int = 1, max_images: int | None = None) -> None:
        """`max_batch`: requests in one forward pass of a UNet. `max_images`: images of one request in it.

        Without `max_images` as many as memory allows; on a CPU as many as have the pixels of the largest one.
        """
        self._models = models
        self._prompts = PromptEncoder(models, models.model_set.clip_skip - 2)
        self._denoiser = Denoiser(models.device, max_batch, models.preview_colors or SDXL_COLORS)
        self._sharing = sharing_on(models, max_images)
        rescale = models.model_set.guidance_rescale
        self._pixels = PixelStages(models)
        self._base = Conditions(models.text_to_image, models.device, rescale)
        self._refiner = Conditions(models.refiner, models.device, rescale) if models.refiner else None
        self._inpaint = Conditions(models.inpaint, models.device, rescale) if models.inpaint else None
        self.estimator = Estimator(
            models, self._base, refiner=self._refiner, inpaint=self._inpaint, sharing=self._sharing
        )

    @property
    def model_set(self) -> ModelSet:
        """The model set that is loaded."""
        return self._models.model_set

    @property
    def max_batch(self) -> int:
        """Requests that may run together."""
        return self._denoiser.max_batch

    @property
    def loras(self) -> LoraFolder:
        """The LoRAs that requests may name."""
        return self._models.loras.folder

    def plan(self, request: GenerateRequest) -> Plan:
        """Return the sizes of a request's passes."""
        return plan_request(request, self.model_set, refiner=self._refiner is not None)

    def complete(self, request: GenerateRequest) -> CompletedRequest:
        """Return a request with the model set's values where it leaves them open.

        Raises `InvalidRequest` for a sampler, a schedule or steps that are impossible with its networks, and
        for LoRAs that there are not.
        """
        stored_sampler, _ = self._base.schedulers.names(OWN)
        completed = request.completed(self.model_set.defaults, stored_sampler)
        steps = completed.num_inference_steps
        problems = {self._first(completed).schedulers.problem(completed.choice, steps): None}
        problems[strength_problem(steps, completed.strength)] = None
        if (redraw := self.plan(completed).redraw) is not None:
            network = (redraw.by_refiner and self._refiner) or self._base
            problems[network.schedulers.problem(completed.choice, redraw.schedule_steps)] = None
        found = [FieldViolation(*problem) for problem in problems if problem is not None]
        if completed.preview_interval_steps is not None and self._models.preview_colors is None:
            message = "the model set does not say which colors its latents stand for"
            found.append(FieldViolation("preview_interval_steps", message))
        raise_violations([*found, *self._models.loras.violations(completed.loras)])
        return completed

    @property
    def samplers(self) -> tuple[str, ...]:
        """The names of the samplers that requests may choose."""
        return tuple(self._base.schedulers.samplers())

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """Sampler, schedule, steps and guidance of requests that leave them open."""
        model = self.model_set.defaults
        sampler, schedule = self._base.schedulers.names(read_choice(model.sampler, model.schedule))
        return {
            "sampler": sampler,
            "schedule": schedule,
            "num_inference_steps": model.num_inference_steps,
            "guidance_scale": model.guidance_scale,
        }

    def estimate(self, request: CompletedRequest, *, requests: int = 1) -> Estimate:
        """Return what a request will take, or `requests` of the kind together. Runs nothing."""
        plan, passes = self.plan(request), self._passes(request)
        return self.estimator.estimate(request, plan, passes, requests=requests)

    def sampling_names(self, request: CompletedRequest) -> tuple[str, str]:
        """Return the names of the sampler and the schedule that a request is drawn with."""
        return self._first(request).schedulers.names(request.choice)

    def batch_key(self, request: CompletedRequest) -> Hashable:
        """Return what requests that run together have in common: sizes, steps, sampler, ..., LoRAs."""
        plan, loras = self.plan(request), in_effect(request.loras)
        steps = request.num_inference_steps, request.strength, self._passes(request), plan.redraw
        return plan.base, plan.second, steps, request.masked, request.guided, request.choice, loras

    def start_prompt(self, request: CompletedRequest) -> PendingPrompt:
        """Start to encode a completed request's prompts, for `run`."""
        return self._prompts.start(request, refine=self._refines(request))

    def run(
        self,
        request: CompletedRequest,
        check: Callable[[], None],
        emit: Callable[[Progress], None],
        prompt: PendingPrompt | None = None,
    ) -> Run:
        """Return a completed request ready for `generate_batch`.

        `check` is called between steps and raises to stop the work.
        """
        [run] = self.image_runs(request, check, emit, prompt)
        return run

    def image_runs(
        self,
        request: CompletedRequest,
        check: Callable[[], None],
        emit: Callable[[Progress], None],
        prompt: PendingPrompt | None = None,
    ) -> list[Run]:
        """Return the images of a completed request ready for `generate_group`, in the order of their seeds.

        They share `prompt`. `check` is called between steps and raises to stop the work; `emit` is called
        once for each step.
        """
        prompt = prompt or self._prompts.later(request, refine=self._refines(request))
        sampler, schedule = self.sampling_names(request)
        together = ProgressTogether(request.num_images, emit)
        start = Start() if request.source is not None else None
        return [
            Run(
                request=single,
                sampler=sampler,
                schedule=schedule,
                plan=self.plan(single),
                passes=self._passes(single),
                device=self._models.device,
                check=check,
                emit=together.emit,
                pending_prompt=prompt,
                free=partial(self._models.loras.drop_idle, request.loras),
                start=start,
                refiner_loaded=self._refiner is not None,
                number=number,
                images=request.num_images,
            )
            for number, single in enumerate(request.for_each_image(), start=1)
        ]

    def generate(
        self,
        request: CompletedRequest,
        check: Callable[[], None] = lambda: None,
        emit: Callable[[Progress], None] = lambda progress: None,
    ) -> Generation:
        """Generate the image of a completed request; the same request gives the same image.

        Raises what `check` raises, `BadImage` rather than return an image with non-finite values or of a
        single color, and `OutOfMemory` after one retry.
        """
        [generation] = self.generate_images(request, check, emit)
        return generation

    def generate_images(
        self,
        request: CompletedRequest,
        check: Callable[[], None] = lambda: None,
        emit: Callable[[Progress], None] = lambda progress: None,
    ) -> list[Generation]:
        """Generate all images of a completed request, in the order of their seeds; see `generate`."""
        generated: list[Run] = []
        self.generate_group(self.image_runs(request, check, emit), generated.append)
        return [self.finish(run) for run in generated]

    def generate_group(self, runs: Sequence[Run], deliver: Callable[[Run], None]) -> None:
        """Generate the images of one request (`image_runs`), all but what `finish` does.

        `deliver` is called with each as soon as it is generated, in order. If one fails, its error is raised,
        with a message that names the image, and no other is delivered from then on.
        """
        errors: list[Exception] = []

        def end(run: Run, error: Exception | None) -> None:
            if error is None:
                deliver(run)
            elif not errors:
                errors.append(error)

        self._generate_all(ImageGroup(runs, self.estimator.learning(runs, end), self._sharing))
        if errors:
            raise errors.pop()

    def generate_batch(self, runs: Sequence[Run], end: Callable[[Run, Exception | None], None]) -> None:
        """Generate the images of requests with equal `batch_key`, all but what `finish` does.

        `end` is called once for each, with the error that has stopped it, if any. The others do not notice.
        See `generate` for what is raised.
        """
        self._generate_all(Batch(runs, self.estimator.learning(runs, end)))

    def _generate_all(self, batch: Batch) -> None:
        try:
            with torch.inference_mode():
                self._generate(batch)
        except EveryRequestEnded:
            pass
        except Exception as error:  # of what they share, such as copying a network to the device
            for run in list(batch.runs):
                batch.end(run, error)

    def finish(self, run: Run) -> Generation:
        """Do what is left once the networks have run: resize by Lanczos. In any thread.

        Raises `OutOfMemory`, which names the image.
        """
        plan, timer = run.plan, StageTimer(reports=run.timer.reports)
        image, run.image = run.image, None
        assert image is not None, "the networks run first"
        try:
            image = self._pixels.upscale(run, image, plan.full, None, timer)
            run.warn_of_limits()
            if (source := run.request.source) is not None and source.mask is not None:
                with timer.stage("compose"):
                    image = source.composed(image)
            if plan.result != plan.full:
                image = self._pixels.upscale(run, image, plan.result, None, timer)
        except OutOfMemory as error:
            raise named_error(run, error) from None
        return run.result(image)

    def _refines(self, request: GenerateRequest) -> bool:
        """Whether the refiner network runs, be it for a hires fix."""
        redraw = self.plan(request).redraw
        return redraw is not None and redraw.by_refiner

    def _first(self, request: GenerateRequest) -> Conditions:
        """Return the network of the base pass."""
        return self._inpaint if self._inpaint is not None and request.masked else self._base

    def _passes(self, request: CompletedRequest) -> Passes:
        steps, strength = request.num_inference_steps, request.strength
        return count_steps(steps, self.plan(request).redraw, strength=strength)

    # --- the sequence of stages ---

    def _generate(self, batch: Batch) -> None:
        plan = batch.runs[0].plan
        batch.each(Run.read_prompt)
        if batch.runs[0].start is not None:
            with batch.stage("encode_latents"):
                batch.each(self._pixels.start)
        if batch.runs[0].passes.base:
            self._base_pass(batch)
        if plan.second is not None:
            if plan.second != plan.base:
                batch.each(partial(self._pixels.resize_latents, size=plan.second))
            self._second_pass(batch)
        batch.each(partial(self._to_pixels, batch=batch))

    def _base_pass(self, batch: Batch) -> None:
        conditions = self._first(batch.runs[0].request)
        inpaint = conditions is self._inpaint

        def start(run: Run) -> None:
            request = run.request
            options = run.encoded_prompt.base, request.guidance_scale, run.noise_generator(0), request.choice
            steps = request.num_inference_steps
            if run.start is None:
                run.denoising = conditions.from_noise(run.plan.base, steps, *options)
            else:
                assert request.strength is not None, "completed"
                run.denoising = conditions.from_latents(
                    run.scaled_latents, steps, request.strength, *options, run.start.masked
                )

        with batch.stage("base"), self._adapted(batch, inpaint=inpaint):
            self._models.placement.use("inpaint" if inpaint else "base")
            batch.each(start)
            pipeline = (inpaint and self._models.inpaint) or self._models.text_to_image
            self._denoiser.denoise(pipeline.unet, batch, "base", batch.runs[0].passes.base)

    def _second_pass(self, batch: Batch) -> None:
        """Run image to image on the latents, with the refiner network or, without one, with the base's."""
        passes, redraw = batch.runs[0].passes, batch.runs[0].plan.redraw
        assert redraw is not None, "there is a second pass"
        refiner = self._refiner if redraw.by_refiner else None

        def start(run: Run) -> None:
            request, prompt = run.request, run.encoded_prompt
            run.denoising = (refiner or self._base).from_latents(
                run.scaled_latents,
                redraw.schedule_steps,
                redraw.strength,
                (redraw.by_refiner and prompt.refiner) or prompt.base,
                request.guidance_scale,
                run.noise_generator(1),
                request.choice,
            )
            run.refined = redraw.by_refiner

        stage = "hires" if redraw.hires else "refiner"
        unet = ((redraw.by_refiner and self._models.refiner) or self._models.text_to_image).unet
        # Of a refiner the LoRAs do not change anything: they are made for the base.
        with batch.stage(stage), nullcontext() if redraw.by_refiner else self._adapted(batch):
            self._models.placement.use("refiner" if redraw.by_refiner else "base")
            batch.each(start)
            self._denoiser.denoise(unet, batch, stage, passes.second or passes.refiner)

    @contextmanager
    def _adapted(self, batch: Batch, *, inpaint: bool = False) -> Iterator[None]:
        """Apply the LoRAs of the requests, which are the same, to the base's UNet, or the inpainting one."""
        loras = self._models.loras.get(batch.runs[0].request.loras)
        if not loras:
            yield
            return
        from atelier_runtime.compilation import compiled  # takes seconds, and `draw` compiles nothing

        self._models.placement.release()  # or what they add would not be copied
        unet = self._models.adapted_inpaint_unet if inpaint else self._models.adapted_unet
        with compiled(False), unet.applied(loras):
            yield

    def _to_pixels(self, run: Run, batch: Batch) -> None:
        run.image = self._pixels.decode(run)
        if upscaler := self._pixels.network_upscaler(run):
            run.image = self._pixels.upscale(run, run.image, run.plan.full, upscaler, run.timer)
        batch.end(run)
