"""Content credentials (C2PA): signs pictures, and says who has signed one.

The library c2pa-python is the optional extra `c2pa` of this distribution. It never uses the network here:
what a stranger's picture says must be no reason to fetch an address.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atelier_gateway import __version__
from atelier_gateway.core.signing import Claim, Signed
from atelier_gateway.signing_files import CERTIFICATE, KEY, SigningFiles
from atelier_runtime.errors import InternalError, InvalidRequest
from atelier_runtime.images import Format, encode_gray_png, sniffed_format
from atelier_runtime.recipes import read_marks
from atelier_runtime.recipes.marks import SOURCE_TYPES
from atelier_runtime.settings import StartupError

_AGENT = {"name": "Atelier", "version": __version__}
_SETTINGS: Mapping[str, Any] = {
    "core": {"allowed_network_hosts": []},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
    "builder": {"thumbnail": {"enabled": False}},
}
"""Thumbnails would take longer than all the rest, and show faces twice."""
_MAX_SHOWN_MANIFESTS = 20
_TRIED = f"{SOURCE_TYPES}softwareImage"


class Credentials:
    """Signs with one certificate; in any thread."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read both files, PEM, and sign a picture of one pixel with them. Raises `StartupError`."""
        try:
            import c2pa
        except ImportError:
            message = "needs the package c2pa-python: pip install 'atelier-gateway[c2pa]'"
            raise StartupError(f"{CERTIFICATE}: {message}") from None
        self._files = SigningFiles.read(certificate, key)
        self._c2pa = c2pa
        self._errors: tuple[type[Exception], ...] = (c2pa.C2paError, ValueError)
        settings = f"{CERTIFICATE}, {KEY}"
        try:
            signed = self.sign(_pixel(), "png", Claim(_TRIED))
        except InternalError as error:
            raise StartupError(f"{settings}: cannot sign with them: {error.message}") from None
        if (summary_of(signed, "png") or {}).get("state") != "Valid":
            raise StartupError(f"{settings}: cannot sign with them: what they sign is not valid")

    def sign(self, file: bytes, file_format: Format, claim: Claim) -> bytes:
        """Return the file with a signed manifest. Raises `InternalError`."""
        return self.signed(file, file_format, claim).file

    def signed(self, file: bytes, file_format: Format, claim: Claim) -> Signed:
        """Return the file with a signed manifest, and whether it keeps that of the file that was opened.

        A manifest of a stranger's that cannot be read is left out. Raises `InternalError`.
        """
        opened = None if claim.opened is None else sniffed_format(claim.opened)
        if claim.opened is not None and opened is not None:
            try:
                whole = self._sign(file, file_format, claim, (claim.opened, opened))
                return Signed(whole, _loss_of(claim.opened, opened))
            except self._errors as error:
                problem = f"{error!s:.200}"
            # If the fault is not that file's, it is raised below.
            return Signed(self._signed_without(file, file_format, claim), problem)
        return Signed(self._signed_without(file, file_format, claim))

    def _signed_without(self, file: bytes, file_format: Format, claim: Claim) -> bytes:
        """Sign without reading the file that was opened: it is named, and nothing is said of it."""
        try:
            return self._sign(file, file_format, claim, None)
        except self._errors as error:
            raise InternalError(f"The picture cannot be signed: {error}") from error

    def _sign(
        self, file: bytes, file_format: Format, claim: Claim, opened: tuple[bytes, Format] | None
    ) -> bytes:
        c2pa = self._c2pa
        signed = io.BytesIO()
        files = self._files
        info = c2pa.C2paSignerInfo(files.algorithm, files.chain.encode(), files.key.encode(), None)
        manifest = _manifest(claim)
        if claim.opened is not None and opened is None:
            manifest["ingredients"] = [{**_INGREDIENT, "title": _PARENT}]
        with (
            c2pa.Context(c2pa.Settings.from_dict(dict(_SETTINGS)), c2pa.Signer.from_info(info)) as context,
            c2pa.Builder(json.dumps(manifest), context) as builder,
        ):
            if opened is not None:
                data, kind = opened
                builder.add_ingredient(json.dumps(_INGREDIENT), _media_type(kind), io.BytesIO(data))
            builder.sign(_media_type(file_format), io.BytesIO(file), signed)
        return signed.getvalue()


_PARENT = "opened"
_INGREDIENT = {"relationship": "parentOf", "label": _PARENT}


def credentials_of(certificate: Path | None, key: Path | None) -> Credentials | None:
    """Return what signs, None without settings. Raises `StartupError`."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing, given = (KEY, CERTIFICATE) if key is None else (CERTIFICATE, KEY)
        raise StartupError(f"{missing}: is required with {given}")
    return Credentials(certificate, key)


def summary_of(file: bytes, file_format: Format) -> dict[str, Any] | None:
    """Return who has signed a file and what they say was done; None if nobody has, or nothing can read it.

    `state` is `Invalid` if the file was changed since. That a certificate is worth anything is not checked.
    """
    try:
        import c2pa
    except ImportError:
        return None
    settings = c2pa.Settings.from_dict(
        {**_SETTINGS, "verify": {**_SETTINGS["verify"], "verify_trust": False}}
    )
    try:
        with (
            c2pa.Context(settings) as context,
            c2pa.Reader(_media_type(file_format), io.BytesIO(file), context=context) as reader,
        ):
            store = json.loads(reader.json())
    except (c2pa.C2paError, ValueError):
        return None
    return _summary(store) if isinstance(store, dict) else None


def _loss_of(opened: bytes, file_format: Format) -> str | None:
    """Return what is wrong with a manifest that the library passes over, as if there were none."""
    try:
        has_credentials = read_marks(opened).has_credentials
    except InvalidRequest:  # more parts than we read
        return None
    if has_credentials and summary_of(opened, file_format) is None:
        return "there is no manifest in them"
    return None


def _summary(store: dict[str, Any]) -> dict[str, Any]:
    manifests = store.get("manifests") or {}
    active = manifests.get(store.get("active_manifest")) or {}
    signature = active.get("signature_info") or {}
    actions = [
        action
        for assertion in active.get("assertions") or []
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in (assertion.get("data") or {}).get("actions") or []
    ]
    return {
        "state": store.get("validation_state"),
        "issuer": signature.get("issuer"),
        "common_name": signature.get("common_name"),
        "time": signature.get("time"),
        "generator": [each.get("name") for each in active.get("claim_generator_info") or []],
        "actions": actions,
        "manifests": min(len(manifests), _MAX_SHOWN_MANIFESTS),
    }


def _manifest(claim: Claim) -> dict[str, Any]:
    sets = [{"name": name, "sha256": sha256} for name, sha256 in claim.model_sets]
    own = {"com.atelier.model_sets": sets} if sets else {}
    if claim.opened is None:
        first = {"action": "c2pa.created", "digitalSourceType": claim.source_type}
        actions = [{**first, "softwareAgent": _AGENT, "parameters": own}]
    else:
        actions = [{"action": "c2pa.opened", "parameters": {"ingredientIds": [_PARENT]}}]
    if claim.faces or claim.opened is not None:
        actions += _changes(claim, own)
    return {
        "claim_generator_info": [_AGENT],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _changes(claim: Claim, own: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was done to a picture after it was opened or drawn."""
    changes: list[dict[str, Any]] = []
    by_network = {"digitalSourceType": claim.source_type, "softwareAgent": _AGENT, "parameters": dict(own)}
    if claim.redrawn:
        changes.append({"action": "c2pa.edited", "description": "Drawn anew by a network.", **by_network})
    if claim.resized and claim.by_network:
        changes.append({"action": "c2pa.resized", "description": "Enlarged by a network.", **by_network})
    elif claim.resized:
        changes.append({"action": "c2pa.resized", "softwareAgent": _AGENT})
    if claim.faces:
        faces = [
            {"x": round(x1, 2), "y": round(y1, 2), "width": round(x2 - x1, 2), "height": round(y2 - y1, 2)}
            for x1, y1, x2, y2 in claim.faces
        ]
        changes.append(
            {
                **by_network,
                "action": "c2pa.edited",
                "description": "Faces were restored by a network.",
                "changes": [_region(face) for face in faces],
                "parameters": {**own, "com.atelier.restored_faces_px": faces},
            }
        )
    if claim.transcoded and not changes:
        changes.append({"action": "c2pa.transcoded", "softwareAgent": _AGENT})
    return changes


def _region(face: Mapping[str, float]) -> dict[str, Any]:
    origin = {"x": face["x"], "y": face["y"]}
    size = {"width": face["width"], "height": face["height"]}
    shape = {"type": "rectangle", "unit": "pixel", "origin": origin, **size}
    return {"region": [{"type": "spatial", "shape": shape}], "description": "restored face"}


def _media_type(file_format: Format) -> str:
    return f"image/{file_format}"


def _pixel() -> bytes:
    return encode_gray_png(np.zeros((1, 1), np.uint8))
