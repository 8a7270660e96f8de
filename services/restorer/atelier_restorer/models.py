"""The networks of a model set that restore faces, loaded into one device's memory.

    detector     RetinaFace, float32
    codeformer   CodeFormer; generates in the dtype of the settings, selects codes in a dtype of its own.
                 Or GFPGAN or RestoreFormer, float32 (`single_restorer`)
    upscaler     any network that spandrel loads, in the dtype of the settings if it supports it
    parser       ParseNet, in the dtype of the settings, put onto the device on first use
    identity     a network of face recognition, float32: an ONNX file, on the CPU, or ArcFace

docs/precision.md says why, in figures.

A set may lack any of them; what it lacks is reported as not loaded. A setting may select a single checkpoint
file instead of a set's component. Nothing is downloaded: startup fails if a file is missing or not in the
manifest.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import torch

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.batching import RestoredCrop
from atelier_restorer.crop_batches import bucket, network_input, restored_crops
from atelier_restorer.detect import FaceDetector
from atelier_restorer.identity import MIN_CERTAINTY, FaceIdentifier
from atelier_restorer.identity_loading import load_identifier
from atelier_restorer.nets.checkpoint import with_counters
from atelier_restorer.nets.codeformer import CodeFormer, filled
from atelier_restorer.parse import FaceParser
from atelier_restorer.settings import RestorerSettings
from atelier_restorer.single_restorer import SingleRestorer, is_single, telling_name
from atelier_runtime.device import choose_device, choose_dtype, computes_in_bfloat16
from atelier_runtime.images import RgbArray
from atelier_runtime.processors import usable_processors
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError
from atelier_runtime.snapshot import Snapshot, take
from atelier_runtime.threads import set_network_threads
from atelier_runtime.upscaler import Upscaler
from atelier_runtime.weights import Component, ModelSet

logger = logging.getLogger(__name__)


class FaceRestorer:
    """CodeFormer on uint8 crops."""

    takes_fidelity = True

    def __init__(
        self,
        network: CodeFormer,
        device: torch.device,
        dtype: torch.dtype,
        encoder_dtype: torch.dtype = torch.float32,
        *,
        fixed_batches: bool | None = None,
    ) -> None:
        """Take over a network; its weights must not change afterwards. For the dtypes see `set_dtypes`.

        `fixed_batches`: run at the sizes of `bucket` only; None: on a CUDA device.

        There the size selects the kernels, and few sizes mean few different kernels. On a CPU it would only
        mean more computation.
        """
        network.requires_grad_(False)
        network.to(device)
        self._memory_format = torch.contiguous_format
        if device.type == "cpu":
            network.prepare_for_cpu()
            self._memory_format = torch.channels_last
        self.network = network.set_dtypes(dtype, encoder_dtype).eval()
        self._device = device
        self._fixed_batches = device.type == "cuda" if fixed_batches is None else fixed_batches

    def batch_sizes(self, max_batch: int) -> list[int]:
        """Return the sizes at which batches of up to `max_batch` faces run."""
        counts = range(1, max_batch + 1)
        return sorted({bucket(count, max_batch) if self._fixed_batches else count for count in counts})

    @torch.inference_mode()
    def restore(
        self, crops: RgbArray, decodes: Sequence[tuple[int, float]], *, max_batch: int | None = None
    ) -> list[RestoredCrop]:
        """Encode each aligned face (N, 512, 512, 3) once; return one for each (index, fidelity 0 to 1).

        With fixed batches, batches are padded by repeating their last row, to at most `max_batch` unless more
        are given. A face whose output has non-finite values yields `NOT_FINITE`; the others are not affected.
        """
        batch_size = functools.partial(bucket, max_batch=max_batch if self._fixed_batches else 0)
        x = network_input(crops, filled(len(crops), batch_size), self._device, self._memory_format)
        rows = [decodes[row] for row in filled(len(decodes), batch_size)]
        indices, fidelities = zip(*rows, strict=True)
        output = self.network(x, torch.tensor(fidelities), indices=indices, batch_size=batch_size)
        return restored_crops(output.image[: len(decodes)].float())


@dataclass(frozen=True)
class Models:
    """Everything that a request may run; None is what is not loaded.

    `components` are the files, by role. `parser` puts the face parser onto the device on its first call,
    since most requests do without. `min_similarity`: the guard's limit unless a request says otherwise; None
    where nothing was measured. Below `min_certainty` the identifier cannot tell who a face shows.
    """

    model_set: ModelSet
    components: Mapping[NetworkRole, Component]
    device: torch.device
    dtype: torch.dtype
    detector: FaceDetector | None
    codeformer: FaceRestorer | SingleRestorer | None
    upscaler: Upscaler | None
    parser: Callable[[], FaceParser] | None
    identifier: FaceIdentifier | None = None
    min_similarity: float | None = None
    min_certainty: float = MIN_CERTAINTY

    @property
    def name(self) -> str:
        """Name of what is loaded: the model set's, then the single files that replace its components."""
        files = [self._file_name(c) for c in self.components.values() if c.single_file]
        from_the_set = len(files) < len(self.components) or not files
        return " + ".join([*([self.model_set.name] if from_the_set else []), *files])

    def hash(self) -> str:
        """Return the SHA-256 of what is loaded: of the set, or of it and of the files that replace its parts.

        Of those, what was read of them when they were loaded.
        """
        files = [f"{c.role} {c.verified[c.path]}" for c in self.components.values() if c.single_file]
        if not files:
            return self.model_set.hash
        of_set = [self.model_set.hash] if len(files) < len(self.components) else []
        return hashlib.sha256("\n".join([*of_set, *sorted(files)]).encode()).hexdigest()

    def _file_name(self, component: Component) -> str:
        if component.role is NetworkRole.FACE_RESTORER and isinstance(self.codeformer, SingleRestorer):
            return telling_name(component.path.name, self.codeformer.architecture.name)
        return component.path.name

    @property
    def main_dtype(self) -> torch.dtype:
        """The dtype that faces are restored in."""
        return self.codeformer.dtype if isinstance(self.codeformer, SingleRestorer) else self.dtype

    @property
    def match_tone(self) -> bool:
        """Whether restored faces are matched to the tone around them, unless a request says otherwise.

        The set says so for its own CodeFormer, not for one from a single file.
        """
        codeformer = self.components.get(NetworkRole.FACE_RESTORER)
        return self.model_set.match_tone and codeformer is not None and not codeformer.single_file

    @property
    def mixture_warning(self) -> str | None:
        """What to log if single files run together with networks of the built-in set, or None."""
        built_in = [c.role for c in self.components.values() if not c.single_file]
        if not self.model_set.built_in or not built_in or len(built_in) == len(self.components):
            return None
        networks = " and ".join(built_in)
        return (
            f"Together with the given files, the built-in demo set provides: {networks}. "
            "The demo set was trained on drawings, not on photos."
        )


ROLES = (
    NetworkRole.FACE_DETECTOR,
    NetworkRole.FACE_RESTORER,
    NetworkRole.UPSCALER,
    NetworkRole.FACE_PARSER,
    NetworkRole.IDENTITY,
)
"""The networks that the restorer runs."""


def restorer_dtype(setting: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a setting; `auto` is float32 where the device does not compute in bfloat16.

    float16, which the generator takes then, has not been measured for faces.
    """
    if setting == "auto" and not computes_in_bfloat16(device):
        return torch.float32
    return choose_dtype(setting, device)


def load_models(settings: RestorerSettings, roles: Collection[NetworkRole] = ROLES) -> Models:
    """Load and check the restorer's part of the model set, and the single files, in the settings.

    Networks of other roles are not loaded. Raises `StartupError` naming the setting or the file.
    """
    set_network_threads(settings.cpu_threads)
    cv2.setNumThreads(usable_processors())
    device = choose_device(settings.device)
    dtype = restorer_dtype(settings.dtype, device)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # it would round float32 convolutions to 10-bit mantissas
    model_set = ModelSet.open(settings.model_set)
    components = _components(settings, model_set, roles)
    detector, codeformer, upscaler, parser, identity = (components.get(role) for role in ROLES)
    measured = model_set.identity if identity and not identity.single_file else None
    min_similarity, min_certainty = settings.min_similarity, settings.min_certainty
    if min_similarity is None and measured:
        min_similarity = measured.min_similarity
    if min_certainty is None:
        min_certainty = measured.min_certainty if measured else MIN_CERTAINTY
    models = Models(
        model_set=model_set,
        components=components,
        device=device,
        dtype=dtype,
        detector=_load_detector(detector, device) if detector else None,
        codeformer=_load_face_restorer(codeformer, device, dtype, settings) if codeformer else None,
        upscaler=Upscaler.load(upscaler, device, dtype) if upscaler else None,
        parser=_lazy_parser(parser, device, dtype) if parser else None,
        identifier=load_identifier(identity, device) if identity else None,
        min_similarity=min_similarity,
        min_certainty=min_certainty,
    )
    if models.detector and detector and detector.single_file:
        # Clients refer to a detector by the network's name; a file's name says little.
        components[NetworkRole.FACE_DETECTOR] = replace(detector, name=models.detector.name)
    if codeformer and isinstance(models.codeformer, SingleRestorer):
        name = telling_name(codeformer.name, models.codeformer.architecture.name)
        components[NetworkRole.FACE_RESTORER] = replace(codeformer, name=name)
    for component in components.values():
        logger.info("network loaded", extra={"role": component.role, "network": component.name})
    if warning := models.mixture_warning:
        logger.warning(warning)
    for name in ("min_similarity", "min_certainty"):
        if getattr(settings, name) is not None and models.identifier is None:
            logger.warning(f"{name.upper()} has no effect: no identity network is loaded")
    return models


def _components(
    settings: RestorerSettings, model_set: ModelSet, roles: Collection[NetworkRole]
) -> dict[NetworkRole, Component]:
    """Return what to load: the set's components, unless a single file replaces them.

    The built-in set's identity network tells drawn people apart. Whoever brings networks for photos is not
    told by it whose faces these are.
    """
    components: dict[NetworkRole, Component] = {}
    for role in (role for role in ROLES if role in roles):
        file = getattr(settings, role.value)
        component = model_set.component(role)
        if file:
            path = Path(file)
            if not path.exists():
                raise StartupError(f"{role.upper()}={file}: there is no such file")
            read_files: dict[Path, str] = {}
            read = functools.partial(_read_and_log, read_files)
            setting = role.upper()
            components[role] = Component(role, path.stem, path, setting, read, verified=read_files)
        elif component is not None:
            components[role] = component
    seeing = [components.get(role) for role in (NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER)]
    identity = components.get(NetworkRole.IDENTITY)
    is_for_drawings = model_set.built_in and identity is not None and not identity.single_file
    if is_for_drawings and any(component is not None and component.single_file for component in seeing):
        del components[NetworkRole.IDENTITY]
    return components


def _read_and_log(read_files: dict[Path, str], path: Path) -> Snapshot:
    """Read a single file, whose SHA-256 no manifest says, and add it to `read_files`."""
    snapshot = take(path)
    read_files[path] = snapshot.sha256
    logger.info("weights from a single file", extra={"file": str(path), "sha256": snapshot.sha256})
    return snapshot


def _state_dict(component: Component) -> dict[str, torch.Tensor]:
    return with_counters(component.state_dict())


def _load_detector(component: Component, device: torch.device) -> FaceDetector:
    try:
        return FaceDetector.from_state_dict(_state_dict(component), device)
    except ValueError as error:
        raise StartupError(f"{component.setting}: the detector {component.path}: {error}") from error


def _lazy_parser(component: Component, device: torch.device, dtype: torch.dtype) -> Callable[[], FaceParser]:
    """Read the face parser now, and put it onto the device on the first call.

    An invalid file must fail at startup, not in a request, and what runs is what was read then.
    """
    state = _state_dict(component)
    try:
        FaceParser.from_state_dict(state, torch.device("cpu"), dtype)
    except ValueError as error:
        raise StartupError(f"{component.setting}: the face parser {component.path}: {error}") from error
    return functools.cache(lambda: FaceParser.from_state_dict(state, device, dtype))


def _load_face_restorer(
    component: Component, device: torch.device, dtype: torch.dtype, settings: RestorerSettings
) -> FaceRestorer | SingleRestorer:
    state = _state_dict(component)
    if is_single(state):
        return _load_single_restorer(component, state, device)
    try:
        network = CodeFormer.from_state_dict(state)
    except ValueError as error:
        raise StartupError(f"{component.setting}: the codeformer {component.path}: {error}") from error
    if network.config.image_size != CROP_SIZE:
        raise StartupError(
            f"{component.setting}: the codeformer {component.path} works on {network.config.image_size} px, "
            f"faces are cropped at {CROP_SIZE}"
        )
    restorer = FaceRestorer(network, device, dtype, choose_dtype(settings.encoder_dtype, device))
    logger.info(
        "CodeFormer loaded successfully",
        extra={"file": str(component.path), "network": component.name, "dtype": str(dtype).split(".")[-1]},
    )
    return restorer


def _load_single_restorer(
    component: Component, state: Mapping[str, torch.Tensor], device: torch.device
) -> SingleRestorer:
    try:
        restorer = SingleRestorer(state, device)
    except ValueError as error:
        raise StartupError(f"{component.setting}: the face restorer {component.path}: {error}") from error
    logger.info(
        "face restorer without a fidelity loaded",
        extra={"file": str(component.path), "network": restorer.architecture.name, "dtype": "float32"},
    )
    return restorer


def batch_for(device: torch.device) -> int:
    """Return the default batch size. A face takes about 0.6 GB; a CPU gains nothing from large batches."""
    if device.type == "cpu":
        return 4
    return 16 if torch.cuda.get_device_properties(device).total_memory >= 20 * 2**30 else 8
