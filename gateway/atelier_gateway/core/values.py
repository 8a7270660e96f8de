"""What can be requested and what is returned: frozen values, independent of HTTP and gRPC.

In a spec, None means that the service decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from atelier_runtime import defaults
from atelier_runtime.images import EncodedImage, InputImage, OutputFormat, stored_size
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import Metadata, ResponseWarning, SkipReason
from atelier_runtime.sizes import Size, result_size

FaceRule = Literal["all", "largest", "center"]
MaskKind = Literal["feather", "parse"]
Look = Literal["auto", "once", "thorough"]
IdentityMode = Literal["off", "report", "guard"]
PromptSyntax = Literal["plain", "weighted"]
DrawnPart = Literal["white", "black", "transparent"]
OnRestoreFailure = Literal["return_base", "fail"]


@dataclass(frozen=True)
class Progress:
    """The progress of a request: `step` of `total` steps of a stage are done.

    `previews`: if they were asked for, what each image will look like, JPEG files.
    """

    stage: str
    step: int
    total: int
    previews: tuple[bytes, ...] = field(default=(), repr=False)


OnProgress = Callable[[Progress], None]
"""Called in the event loop, once for a step of all images.

A call that is retried on another replica starts again from step 0.
"""


def ignore_progress(progress: Progress) -> None:
    """Do nothing."""


# --- POST /generate and its aliases ---


@dataclass(frozen=True)
class Lora:
    """A LoRA to apply, by the name that the generator knows it by."""

    name: str
    weight: float | None = None


@dataclass(frozen=True)
class HiresPass:
    """A hires fix of the client's own sizes: the result's size, and how the second pass redraws it."""

    width: int
    height: int
    strength: float | None = None
    num_inference_steps: int | None = None


@dataclass(frozen=True)
class GenerateSpec:
    """An image to generate, or several, and what to do with their faces."""

    prompt: str
    negative_prompt: str | None = None
    prompt_syntax: PromptSyntax | None = None
    """Whether the brackets in both prompts mean themselves or weights."""
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    seed: int | None = None
    use_refiner: bool | None = None
    refiner_strength: float | None = None
    hires_fix: bool | None = None
    hires_pass: HiresPass | None = None
    """The base pass at `width` and `height`, then a second pass at this size."""
    use_upscaler: bool | None = None
    """Upscale with the upscaler network rather than Lanczos."""
    lanczos_scale: float | None = None
    """Upscale the generated image this many times with Lanczos; None: not at all."""
    loras: tuple[Lora, ...] = ()
    """Applied together with those that the prompt's tags name."""
    model_set: str | None = None
    """Fail unless this model set is loaded."""
    face_detector: str | None = None
    """Fail unless this network finds the faces."""
    restore_faces: bool = defaults.USE_FACE_RESTORATION
    fidelity: float | None = None
    match_tone: bool | None = None
    upscale: int = defaults.UPSCALE
    """Upscaling factor of the restored image."""
    on_restore_failure: OnRestoreFailure = defaults.ON_RESTORE_FAILURE
    """Where the restorer fails: return the generated image as it is, or fail."""
    output_format: OutputFormat = defaults.OUTPUT_FORMAT
    quality: int | None = None
    num_images: int | None = None
    """Images, with the seeds `seed`, `seed` + 1, ..."""
    image: bytes | None = field(default=None, repr=False)
    """A file to start from; without `width` and `height`, the result has its size."""
    mask: bytes | None = field(default=None, repr=False)
    """A file of the same size that says where the image is to be drawn anew."""
    mask_kind: DrawnPart | None = None
    """Which part of the mask is drawn anew."""
    mask_blur_px: float | None = None
    strength: float | None = None
    """How much of the image is drawn anew, 0 to 1."""
    preview_interval_steps: int | None = None
    """Report previews every so many steps; None: never."""
    metadata: Metadata = defaults.METADATA
    """What the file says of how it was made."""
    warnings: tuple[ResponseWarning, ...] = ()
    """What the client should know of its request."""

    @property
    def own_size(self) -> bool:
        """Whether the image to start from decides on the size."""
        return self.image is not None and self.width is None and self.height is None

    @property
    def image_count(self) -> int:
        """How many images."""
        return defaults.NUM_IMAGES if self.num_images is None else self.num_images

    @property
    def restored(self) -> bool:
        """Whether the restorer has work to do."""
        return self.restore_faces or self.upscale > 1

    def result_size(self) -> Size:
        """Return the size of each final image, width and height perhaps exchanged if it is that of `image`.

        That of a file that cannot be read is unknown; then any.
        """
        requested = Size(self.width or defaults.SIDE_PX, self.height or defaults.SIDE_PX)
        if self.own_size and self.image is not None:
            requested = stored_size(self.image) or requested
        hires_fix = defaults.HIRES_FIX if self.hires_fix is None else self.hires_fix
        hires = self.hires_pass
        hires_pass = None if hires is None else Size(hires.width, hires.height)
        generated = result_size(
            requested, hires_fix=hires_fix, lanczos_scale=self.lanczos_scale, hires_pass=hires_pass
        )
        return Size(generated.width * self.upscale, generated.height * self.upscale)


@dataclass(frozen=True)
class Sampling:
    """How an image was denoised: with the request's values, or the model set's where it left them open."""

    sampler: str
    schedule: str
    num_inference_steps: int
    guidance_scale: float
    strength: float | None = None
    """Of image to image."""


@dataclass(frozen=True)
class GeneratedImage:
    """What the generator returned. A reason is None where nothing was skipped."""

    image: EncodedImage
    seed: int
    model_set: str
    sampling: Sampling
    refiner_applied: bool
    refiner_reason: SkipReason | None
    hires_fix_applied: bool
    upscaler: str
    """What upscaled the image, a network's name or "lanczos"; empty if nothing was upscaled."""
    warnings: tuple[ResponseWarning, ...]
    stages: tuple[StageReport, ...]
    model_set_hash: str = ""
    device: str = ""
    """Name and dtype of what it was drawn on."""
    prompt_tokens: int = 0
    hires_strength: float | None = None
    """Of the second pass of hires fix as it ran; None: there was none, or the generator does not say."""


OnImage = Callable[[int, GeneratedImage], Awaitable[None]]
"""Called in the event loop with each image and its number, from 0, in order; then the next is read.

A call that is retried on another replica starts again from 0: what was handed on before does not count.
"""


@dataclass(frozen=True)
class Generation:
    """The result of the whole chain: generated, restored, encoded."""

    image: EncodedImage
    seed: int
    model_set: str
    sampling: Sampling
    refiner_applied: bool
    refiner_reason: SkipReason | None
    hires_fix_applied: bool
    upscalers: tuple[str, ...]
    """Everything that upscaled the image, in order."""
    upscale_applied: int
    face_restoration_applied: bool
    """At least one face was restored."""
    face_restoration_reason: SkipReason | None
    """Why no face was restored although it was requested."""
    tone_matched: bool
    faces: tuple[FaceOutcome, ...]
    warnings: tuple[ResponseWarning, ...]
    stages: tuple[StageReport, ...]
    model_set_hash: str = ""
    device: str = ""
    """Name and dtype of what it was drawn on."""
    prompt_tokens: int = 0
    hires_strength: float | None = None
    """Of the second pass of hires fix as it ran; None: there was none, or the generator does not say."""
    infotext: str = ""
    """As AUTOMATIC1111's web UI writes it; empty if the file says nothing of how it was made."""


# --- faces ---


@dataclass(frozen=True)
class Face:
    """A face as the detector found it.

    `box`: x1, y1, x2, y2. `landmarks`: (x, y) of left eye, right eye, nose tip, left and right corner of the
    mouth. In px of the image. None: unknown.
    """

    index: int
    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    confidence: float
    size_px: float | None = None
    sharpness: float | None = None
    roll_degrees: float | None = None
    orientation_unclear: bool = False
    """It may be upside down or on its side."""


@dataclass(frozen=True)
class FaceEdit:
    """What to do with one face. None: as the request says for all faces."""

    face: Face
    fidelity: float | None = None
    visibility: float | None = None
    skip: bool | None = None


@dataclass(frozen=True)
class RestoreSpec:
    """An image whose faces are to be restored, and how."""

    image: InputImage
    fidelity: float | None = None
    """CodeFormer's w: 0 best looking, 1 closest to the input."""
    faces: tuple[FaceEdit, ...] = ()
    """Edits of single faces; empty: the faces that are detected, selected by the rule."""
    rule: FaceRule | None = None
    max_faces: int | None = None
    """0: no face is detected, the image is only upscaled or re-encoded."""
    min_face_px: float | None = None
    max_face_px: float | None = None
    min_confidence: float | None = None
    detect_size: int | None = None
    look: Look | None = None
    max_sharpness: float | None = None
    visibility: float | None = None
    upscale: int | None = None
    use_upscaler: bool | None = None
    aligned: bool | None = None
    mask: MaskKind | None = None
    match_tone: bool | None = None
    identity: IdentityMode | None = None
    min_similarity: float | None = None
    output_format: OutputFormat | None = None
    """None: the input's."""
    quality: int | None = None
    metadata: Metadata | None = None
    return_mask: bool | None = None
    return_crops: bool | None = None


@dataclass(frozen=True)
class CompareSpec:
    """One image to restore at several fidelities. Those of `restore` must be None."""

    restore: RestoreSpec
    fidelities: tuple[float, ...]


@dataclass(frozen=True)
class DetectSpec:
    """An image whose faces are to be found."""

    image: InputImage
    min_confidence: float | None = None
    detect_size: int | None = None
    """The image's short side is resized to this, in px; 0: full resolution."""
    look: Look | None = None


@dataclass(frozen=True)
class FaceOutcome:
    """The outcome for one face, in px of the returned image. Crops are present if requested."""

    face: Face
    restored: bool
    reason: SkipReason | None
    fidelity: float | None
    crop_before: EncodedImage | None
    crop_after: EncodedImage | None
    fidelity_requested: float | None = None
    """Where the guard of the likeness used a higher one."""
    identity_similarity: float | None = None
    identity_unknown: bool = False
    visibility: float | None = None
    """At which it was pasted."""
    visibility_requested: float | None = None
    """Where the guard of the likeness used a lower one."""


@dataclass(frozen=True)
class Restoration:
    """What the restorer returned. `mask` is present if requested."""

    image: EncodedImage
    mask: EncodedImage | None
    faces: tuple[FaceOutcome, ...]
    face_restoration_applied: bool
    face_restoration_reason: SkipReason | None
    tone_matched: bool
    upscale_applied: int
    upscaler: str
    """What upscaled the image, a network's name or "lanczos"; empty if nothing was upscaled."""
    model_set: str
    warnings: tuple[ResponseWarning, ...]
    stages: tuple[StageReport, ...]
    min_similarity: float | None = None
    model_set_hash: str = ""
    device: str = ""
    """Name and dtype of what the faces were restored on."""
    mask_sha256: str = ""
    """Of the mask's values; empty: no face was restored."""


@dataclass(frozen=True)
class Detection:
    """The faces of an image, highest confidence first; its size in px, after its orientation was applied."""

    faces: tuple[Face, ...]
    width: int
    height: int
    stages: tuple[StageReport, ...]
    warnings: tuple[ResponseWarning, ...]
