"""A packaged set's networks, run by the services' own code."""

import asyncio
import time

import numpy as np
import torch
from numpy.typing import NDArray

from atelier_generator.models import Models
from atelier_generator.models import load_models as load_generator
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.detect import FaceDetector
from atelier_restorer.in_process import open_in_process
from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_restorer.request import Face, RestoreRequest
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import defaults, images
from atelier_runtime.images import RgbArray
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.weights import ModelSet, load_state_dict

DETECT_SIZE = 640
_FACES = (NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER)


class Studio:
    """The set's networks on the CPU, and the parameters of image requests."""

    def __init__(self, model_set: str, steps: int, guidance: float, side: int) -> None:
        """Open the set (`demo`, or a folder)."""
        self.model_set, self.steps, self.guidance, self.side = model_set, steps, guidance, side
        settings = GeneratorSettings.model_validate({"model_set": model_set, "device": "cpu"})
        self.models: Models = load_generator(settings)
        self.pipeline = Pipeline(self.models)
        opened = ModelSet.open(model_set)
        device = torch.device("cpu")
        self.detector = FaceDetector.from_state_dict(
            load_state_dict(opened.require(NetworkRole.FACE_DETECTOR).path), device
        )
        self.codeformer: CodeFormer | None = None
        if (component := opened.component(NetworkRole.FACE_RESTORER)) is not None:
            self.codeformer = CodeFormer.from_state_dict(load_state_dict(component.path)).float().eval()

    @property
    def restorer(self) -> FaceRestorer | None:
        """CodeFormer as the restorer runs it, on aligned crops of 512 px."""
        if self.codeformer is None:
            return None
        return FaceRestorer(self.codeformer, torch.device("cpu"), torch.float32)

    def generate(self, prompt: str, seed: int, hires_fix: bool = False) -> NDArray[np.uint8]:
        """The image (H, W, 3) that the generator would return."""
        request = GenerateRequest(
            prompt=prompt,
            negative_prompt="",
            width_px=self.side,
            height_px=self.side,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            hires_fix=hires_fix,
            seed=seed,
        )
        return self.pipeline.generate(self.pipeline.complete(request)).pixels

    def faces(self, image: NDArray[np.uint8]) -> list[Face]:
        """Faces above the service's default confidence, highest confidence first."""
        found = self.detector.detect([image], size_px=DETECT_SIZE, min_confidence=defaults.MIN_CONFIDENCE)
        return found[0]

    def seconds(self, prompt: str, seed: int, hires: bool, runs: int) -> tuple[float, bool]:
        """Median seconds of an image, including restoration with `hires`; whether a face was restored."""
        return asyncio.run(self._seconds(prompt, seed, hires, runs))

    async def _seconds(self, prompt: str, seed: int, hires: bool, runs: int) -> tuple[float, bool]:
        settings = RestorerSettings.model_validate({"model_set": self.model_set, "device": "cpu"})
        seconds, restored = [], False
        async with open_in_process(
            settings, (*_FACES, NetworkRole.UPSCALER), (NetworkRole.FACE_DETECTOR,)
        ) as restorer:
            for number in range(runs + 1):
                start = time.perf_counter()
                image = self.generate(prompt, seed, hires_fix=hires)
                if hires:
                    file = images.encode(images.Picture(image), "png", defaults.QUALITY)
                    result = await restorer.restore(file, RestoreRequest())
                    restored = bool(result.report["face_restoration_applied"])
                if number or runs == 1:  # the first one is the warm-up
                    seconds.append(time.perf_counter() - start)
                if runs == 1:
                    break
        return float(np.median(seconds)), restored


async def restore(
    settings: RestorerSettings, degraded: RgbArray, fidelities: tuple[float, ...]
) -> list[RgbArray]:
    """The image (H, W, 3) with its faces restored, once per w. Raises ValueError if no face was restored."""
    file = images.encode(images.Picture(degraded), "png", defaults.QUALITY)
    restored = []
    async with open_in_process(settings, _FACES, _FACES) as restorer:
        for fidelity in fidelities:
            result = await restorer.restore(file, RestoreRequest(fidelity=fidelity))
            if not result.report["face_restoration_applied"]:
                raise ValueError(f"no face was restored: {result.report['face_restoration_reason']}")
            restored.append(images.decode(result.picture, max_pixels=degraded.size).rgb)
    return restored


async def finish(settings: RestorerSettings, generated: list[RgbArray]) -> list[RgbArray]:
    """Images (H, W, 3) as the chain returns them by default: with the faces that are found restored."""
    finished = []
    async with open_in_process(settings, _FACES, _FACES) as restorer:
        for image in generated:
            file = images.encode(images.Picture(image), "png", defaults.QUALITY)
            result = await restorer.restore(file, RestoreRequest())
            finished.append(images.decode(result.picture, max_pixels=image.size).rgb)
    return finished
