"""Face restoration as the public tools do it: facexlib's `FaceRestoreHelper`, one face at a time.

The helper's constructor would download weights; its two network factories are replaced while it runs, so
nothing is downloaded. The public CodeFormer is not among the project's packages; its network is ours with the
same weights, called as in its script: one forward pass per face, the crop through float64, the cache emptied
afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from unittest.mock import patch

import cv2
import numpy as np
import torch
from facexlib.utils import face_restoration_helper, img2tensor
from torch import Tensor

from atelier_runtime.defaults import FIDELITY
from atelier_runtime.images import RgbArray
from bench.face_networks import FaceNetworks
from bench.face_scene import FaceScene
from bench.phases import Phases

_DETECT_SIZE_PX, _MIN_EYE_DISTANCE_PX = 640, 5  # as in the public script
_JPEG_QUALITY = 92


class _Classes:
    """A parser's output whose classes are known, in the form that the helper reads."""

    def __init__(self, classes: Tensor) -> None:
        self._classes = classes

    def argmax(self, dim: int) -> Tensor:
        return self._classes.unsqueeze(0)


class _Parser:
    """What the helper calls for each face: the network, or prepared classes; records its own seconds."""

    def __init__(self, network: Callable[[Tensor], tuple[Tensor, Tensor]] | None) -> None:
        self._network = network
        self._prepared: list[Tensor] = []
        self.seconds = 0.0

    def prepare(self, classes: RgbArray) -> None:
        self.seconds = 0.0
        self._prepared = [torch.from_numpy(face.astype(np.int64)) for face in classes]

    def __call__(self, x: Tensor) -> tuple[_Classes]:
        start = time.perf_counter()
        prepared = self._prepared.pop(0)
        classes = prepared if self._network is None else self._network(x)[0].argmax(dim=1)[0].cpu()
        self.seconds += time.perf_counter() - start
        return (_Classes(classes),)


class ReferenceFlow:
    """The flow for one scale, with the real networks or, without them, with the scene's prepared results."""

    def __init__(self, scale: int, networks: FaceNetworks | None) -> None:
        self._networks = networks
        self._parser = _Parser(networks.plain_parser if networks else None)
        with patch.multiple(
            face_restoration_helper,
            init_detection_model=lambda *_, **__: networks.plain_detector if networks else None,
            init_parsing_model=lambda *_, **__: self._parser,
        ):
            self._helper = face_restoration_helper.FaceRestoreHelper(
                scale, device=networks.device if networks else torch.device("cpu")
            )

    def run(self, scene: FaceScene, parsed: bool, background: RgbArray | None, phases: Phases) -> RgbArray:
        """Return the image, RGB, with its faces pasted in.

        At a scale above 1 they are pasted into `background`, the image that our flow upscaled, so that the
        two results differ only in the faces. For the same reason the half pixel by which the helper pastes
        too far right and down at those scales is corrected.
        """
        helper, scale = self._helper, self._helper.upscale_factor
        helper.clean_all()
        helper.use_parse = parsed
        with phases.phase("decode"):
            helper.read_image(cv2.imdecode(np.frombuffer(scene.file, np.uint8), cv2.IMREAD_COLOR))
        if self._networks:
            with phases.phase("detect"):
                helper.get_face_landmarks_5(resize=_DETECT_SIZE_PX, eye_dist_threshold=_MIN_EYE_DISTANCE_PX)
            helper.clean_all()
        helper.all_landmarks_5 = [np.array(face) for face in scene.faces]
        with phases.phase("align"):
            helper.align_warp_face()
            helper.get_inverse_affine()
        restored = [np.ascontiguousarray(face[..., ::-1]) for face in scene.restored]
        if self._networks:
            with phases.phase("restore"):
                restored = [self._restore(crop) for crop in helper.cropped_faces]
        for face in restored:
            helper.add_restored_face(face)
        self._parser.prepare(scene.classes)
        if background is not None:
            with phases.phase("upscale"):
                size = helper.input_img.shape[1] * scale, helper.input_img.shape[0] * scale
                cv2.resize(helper.input_img, size, interpolation=cv2.INTER_LANCZOS4)
            for matrix in helper.inverse_affine_matrices:
                matrix[:, 2] -= 0.5
            background = np.ascontiguousarray(background[..., ::-1])
        with phases.phase("paste"):
            result = helper.paste_faces_to_input_image(upsample_img=background)
        if parsed:
            phases.move(self._parser.seconds, "paste", "parse")
        with phases.phase("encode"):
            options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if scene.file_format == "jpeg" else []
            cv2.imencode(f".{scene.file_format}", result, options)
        return np.asarray(result[..., ::-1], dtype=np.uint8)

    @torch.no_grad()
    def _restore(self, crop: RgbArray) -> RgbArray:
        assert self._networks is not None
        x = img2tensor(crop / 255.0, bgr2rgb=True, float32=True)
        x = ((x - 0.5) / 0.5).unsqueeze(0).to(self._networks.device)
        image = self._networks.plain_codeformer(x, FIDELITY).image[0]
        pixels = (image.float().cpu().clamp_(-1, 1) + 1) / 2 * 255
        if self._networks.device.type == "cuda":
            torch.cuda.empty_cache()
        bgr = pixels.permute(1, 2, 0).numpy()[..., ::-1]
        return np.ascontiguousarray(bgr.round().astype(np.uint8))
