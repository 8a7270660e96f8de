"""Face restoration as the restorer does it, phase by phase: the functions that its pipeline calls."""

from __future__ import annotations

import numpy as np

from atelier_restorer.align import crop_to_picture, cut_crop, face_to_crop
from atelier_restorer.paste import paste_face, restored_parts, soften_parts
from atelier_restorer.request import DetectRequest
from atelier_runtime import images
from atelier_runtime.defaults import FIDELITY, MIN_CONFIDENCE, QUALITY
from atelier_runtime.errors import InternalError
from atelier_runtime.images import RgbArray
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import resample
from bench.face_networks import FaceNetworks
from bench.face_scene import FaceScene
from bench.phases import Phases

_MAX_PIXELS = 2**31


def run(
    scene: FaceScene,
    scale: int,
    parsed: bool,
    networks: FaceNetworks | None,
    phases: Phases,
    with_mask: bool = False,
) -> tuple[RgbArray, RgbArray | None]:
    """Return the image with its faces pasted in, and the mask of what was changed if requested.

    Without networks the scene's prepared results stand in for theirs. The detector is timed, but its faces
    are not used: both flows continue with the scene's.
    """
    with phases.phase("decode"):
        image = images.decode(scene.file, max_pixels=_MAX_PIXELS)
    if networks:
        with phases.phase("detect"):
            networks.detector.detect(
                [image.rgb], size_px=DetectRequest().detect_size_px, min_confidence=MIN_CONFIDENCE
            )
    with phases.phase("align"):
        matrices = [face_to_crop(points) for points in scene.faces]
        crops = [cut_crop(image.rgb, matrix) for matrix in matrices]
    restored, classes = scene.restored, scene.classes
    if networks:
        with phases.phase("restore"):
            restored = np.stack(_restore(networks, crops))
        if parsed:
            with phases.phase("parse"):
                classes = _parse(networks, restored)
    rgb = image.rgb
    if scale > 1:
        with phases.phase("upscale"):
            rgb = resample(rgb, Size(rgb.shape[1] * scale, rgb.shape[0] * scale))
    classes_or_none = classes if parsed else None
    mask = paste(rgb, matrices, scale, restored, classes_or_none, phases, with_mask)
    with phases.phase("encode"):
        images.encode(image.with_pixels(rgb, None), scene.file_format, QUALITY)
    return rgb, mask


def paste(
    rgb: RgbArray,
    matrices: list[np.ndarray],
    scale: int,
    restored: RgbArray,
    classes: RgbArray | None,
    phases: Phases,
    with_mask: bool = False,
) -> RgbArray | None:
    """Paste all faces into the upscaled image, in place; return the mask of what was changed if requested."""
    with phases.phase("paste"):
        mask = np.zeros(rgb.shape[:2], np.uint8) if with_mask else None
        for number, matrix in enumerate(matrices):
            parts = None if classes is None else soften_parts(restored_parts(classes[number]))
            paste_face(rgb, mask, restored[number], crop_to_picture(matrix, scale), scale, parts=parts)
    return mask


def _restore(networks: FaceNetworks, crops: list[RgbArray]) -> list[RgbArray]:
    restored: list[RgbArray] = []
    for start in range(0, len(crops), networks.max_batch):
        batch = np.stack(crops[start : start + networks.max_batch])
        decodes = [(n, FIDELITY) for n in range(len(batch))]
        for face in networks.restorer.restore(batch, decodes, max_batch=networks.max_batch):
            if isinstance(face, SkipReason):
                raise InternalError(f"a face was not restored: {face}")
            restored.append(face)
    return restored


def _parse(networks: FaceNetworks, restored: RgbArray) -> RgbArray:
    size = networks.max_batch
    batches = [restored[start : start + size] for start in range(0, len(restored), size)]
    return np.concatenate([networks.parser.classify(batch) for batch in batches])
