"""The generator's stand-in: it takes three steps, and returns gradients of the requested size."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
from grpc_status import rpc_status

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier.generator.v1 import generator_service_pb2_grpc
from atelier_runtime import defaults, wire
from atelier_runtime.errors import BadImage, InvalidRequest
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.rpc_errors import to_status
from atelier_runtime.sizes import Size, result_size
from tests.contract.script import MODEL_SET_HASH, Scripted, encoded, gradient, set_fields

STEPS = 3


class ScriptedGenerator(Scripted, generator_service_pb2_grpc.GeneratorServiceServicer):
    async def GenerateImage(
        self, request: pb.GenerateImageRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateImageResponse]:
        await self._refuse_previews(request, context)
        for step in range(STEPS + 1):
            progress = pb.GenerateImageProgress(stage="base", step=step, total_steps=STEPS)
            if request.preview_interval_steps and step:
                preview = encoded(gradient(32, 24), "jpeg", defaults.QUALITY).data
                progress.previews.extend([preview] * (request.num_images or 1))
            self.script.steps += step > 0
            yield pb.GenerateImageResponse(progress=progress)
        await self.begin(request, context)
        first = self._result(request)
        for number in range(request.num_images or 1):
            if number == self.script.error_at:
                error = BadImage(f"Image {number + 1} of {request.num_images}")
                await context.abort_with_status(rpc_status.to_status(to_status(error, "service")))
            result = pb.GenerateImageResult()
            result.CopyFrom(first)
            result.seed = first.seed + number
            yield pb.GenerateImageResponse(result=result)

    async def _refuse_previews(
        self, request: pb.GenerateImageRequest, context: grpc.aio.ServicerContext
    ) -> None:
        if self.script.colorless and request.preview_interval_steps:
            problem = InvalidRequest.of("preview_interval_steps", "the latents have no colors")
            await context.abort_with_status(rpc_status.to_status(to_status(problem, "service")))

    async def EstimateImage(
        self, request: pb.EstimateImageRequest, context: grpc.aio.ServicerContext
    ) -> pb.EstimateImageResponse:
        await self.begin(request, context, held=False)
        await self._refuse_previews(request.request, context)
        seconds = pb.EstimatedDuration(
            expected=wire.duration_to_proto(12.5),
            low=wire.duration_to_proto(11),
            high=wire.duration_to_proto(15),
        )
        result = self._result(request.request)
        return pb.EstimateImageResponse(
            passes=[pb.EstimatedPass(stage="base", width_px=256, height_px=192, steps=STEPS)],
            stages=[pb.EstimatedStage(stage="base", duration=seconds)],
            width_px=result.image.width_px,
            height_px=result.image.height_px,
            duration=seconds,
            observations=3,
            peak_vram_bytes=7 * 2**30,
            queue_wait=wire.duration_to_proto(40.25),
            model_set=result.model_set,
            sampler=result.sampler,
            schedule=result.schedule,
            num_inference_steps=result.num_inference_steps,
            guidance_scale=result.guidance_scale,
            num_images=request.request.num_images or 1,
            strength=wire.optional(result, "strength"),
            warnings=result.warnings,
        )

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(
            status=await self.status(),
            samplers=[
                pb.Sampler(name="euler", schedules=["default", "karras"], aliases=["Euler"]),
                pb.Sampler(name="euler_ancestral", schedules=["default"], aliases=["Euler a"]),
                pb.Sampler(name="dpmpp_2m", schedules=["default", "karras"], aliases=["DPM++ 2M"]),
            ],
            loras=[pb.AvailableLora(name="sketch", trigger_words=["pencil sketch"])],
            defaults=pb.SamplingDefaults(
                sampler="euler",
                schedule="default",
                num_inference_steps=self.script.set_steps,
                guidance_scale=7.5,
            ),
        )

    def _result(self, request: pb.GenerateImageRequest) -> pb.GenerateImageResult:
        requested = Size(request.width_px or defaults.SIDE_PX, request.height_px or defaults.SIDE_PX)
        lanczos_scale = wire.optional(request, "lanczos_scale")
        size = self.script.size or result_size(
            requested, hires_fix=request.hires_fix, lanczos_scale=lanczos_scale
        )
        output = wire.output_from_proto(request.output, [])
        use_refiner = not request.HasField("use_refiner") or request.use_refiner
        use_upscaler = not request.HasField("use_upscaler") or request.use_upscaler
        result = pb.GenerateImageResult(
            image=encoded(gradient(*size), output.format or "png", output.quality or defaults.QUALITY),
            seed=request.seed if request.HasField("seed") else 2**52 + len(self.script.requests),
            refiner_reason=wire.skip_reason_to_proto(SkipReason.NOT_LOADED if use_refiner else None),
            hires_fix_applied=request.hires_fix,
            upscaler="demo_x2" if request.hires_fix and use_upscaler else "",
            stages=wire.stages_to_proto([StageReport("base", 1.25)]),
            model_set="demo",
            model_set_hash=MODEL_SET_HASH,
            drawn_on="two cores, float32",
            sampler=request.sampler or "euler",
            schedule=request.schedule or "trailing",
            num_inference_steps=request.num_inference_steps or defaults.NUM_INFERENCE_STEPS,
            guidance_scale=request.guidance_scale or defaults.GUIDANCE_SCALE,
        )
        if self.script.no_image:
            result.ClearField("image")
        set_fields(result, self.script.result)
        return result
