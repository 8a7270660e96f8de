"""What is returned of an image, with and without the restorer's part."""

from __future__ import annotations

from dataclasses import replace

from atelier_gateway.core.values import GeneratedImage, GenerateSpec, Generation, Restoration
from atelier_runtime.outcomes import ResponseWarning, SkipReason


def unrestored(
    spec: GenerateSpec,
    generated: GeneratedImage,
    reason: SkipReason | None,
    warnings: list[ResponseWarning],
) -> Generation:
    """Return a result without the restorer; `reason` says why it was skipped, None if it was not needed."""
    return Generation(
        image=generated.image,
        seed=generated.seed,
        model_set=generated.model_set,
        sampling=generated.sampling,
        refiner_applied=generated.refiner_applied,
        refiner_reason=generated.refiner_reason,
        hires_fix_applied=generated.hires_fix_applied,
        upscalers=(generated.upscaler,) if generated.upscaler else (),
        upscale_applied=1,
        face_restoration_applied=False,
        face_restoration_reason=reason if spec.restore_faces else None,
        tone_matched=False,
        faces=(),
        warnings=(*warnings, *generated.warnings),
        stages=generated.stages,
        model_set_hash=generated.model_set_hash,
        device=generated.device,
        prompt_tokens=generated.prompt_tokens,
        hires_strength=generated.hires_strength,
    )


def restored(
    spec: GenerateSpec, generated: GeneratedImage, restoration: Restoration, warnings: list[ResponseWarning]
) -> Generation:
    """Return a result of the generator and the restorer."""
    base = unrestored(spec, generated, restoration.face_restoration_reason, warnings)
    applied = spec.restore_faces and restoration.face_restoration_applied
    upscalers = dict.fromkeys((*base.upscalers, *((restoration.upscaler,) if restoration.upscaler else ())))
    return replace(
        base,
        image=restoration.image,
        upscalers=tuple(upscalers),
        upscale_applied=restoration.upscale_applied,
        face_restoration_applied=applied,
        face_restoration_reason=None if applied else base.face_restoration_reason,
        tone_matched=restoration.tone_matched,
        faces=restoration.faces if spec.restore_faces else (),
        warnings=(*base.warnings, *restoration.warnings),
        stages=(*base.stages, *restoration.stages),
    )
