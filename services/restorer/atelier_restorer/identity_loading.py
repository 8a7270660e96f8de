"""Loads the file of the role `identity`, and says what it is if it is something else."""

from __future__ import annotations

import torch

from atelier_restorer.identify import UnknownNetworkError, identify
from atelier_restorer.identity import FaceIdentifier, IdentityNetworkError, OnnxIdentifier
from atelier_restorer.identity_arcface import ArcFaceIdentifier
from atelier_restorer.nets.checkpoint import with_counters
from atelier_runtime.file_kinds import is_onnx
from atelier_runtime.settings import StartupError
from atelier_runtime.snapshot import CheckpointError
from atelier_runtime.weights import Component, read_snapshot


def load_identifier(component: Component, device: torch.device) -> FaceIdentifier:
    """Load a network of face recognition: an ONNX file, or a checkpoint of ArcFace, which runs on `device`.

    Raises `StartupError`, which names the setting, the role and what the file is, if it is neither.
    """
    where = f"{component.setting}: the identity network"
    try:
        with component.read(component.path) as snapshot:
            with snapshot.open() as file:
                onnx = is_onnx(file)
            if onnx:
                return OnnxIdentifier(snapshot.read())
            state = with_counters(read_snapshot(snapshot))
    except IdentityNetworkError as error:
        raise StartupError(f"{where} {component.path} {error}") from error
    except CheckpointError as error:
        raise StartupError(f"{where}: {error}") from error
    try:
        return ArcFaceIdentifier(state, device)
    except ValueError as error:
        try:
            found = identify(state)
        except UnknownNetworkError as unknown:
            raise StartupError(f"{where} {component.path} is {unknown}") from unknown
        raise StartupError(
            f"{where} {component.path} is a network of the role {found.role} ({found.network}), not one of "
            "face recognition: that is an ArcFace (IR-SE50) or an ONNX file"
        ) from error
