"""The files of a certificate and its key, checked before anything is signed with them.

The library that signs takes keys in PKCS#8 only, and names neither file when something is wrong with one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atelier_gateway.settings import GatewaySettings
from atelier_runtime.settings import StartupError

CERTIFICATE = f"{GatewaySettings.model_config['env_prefix']}C2PA_CERTIFICATE"
KEY = f"{GatewaySettings.model_config['env_prefix']}C2PA_KEY"
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class SigningFiles:
    """What signs. `chain`: PEM, the leaf first. `key`: PEM, in PKCS#8. `algorithm`: by its name in C2PA."""

    chain: str
    key: str = field(repr=False)
    algorithm: str

    @classmethod
    def read(cls, certificate: Path, key: Path) -> SigningFiles:
        """Read both files; needs the package cryptography. Raises `StartupError`, which names the setting."""
        chain = _read(CERTIFICATE, certificate)
        loaded = _loaded(_read(KEY, key))
        algorithm = _algorithm_of(loaded)
        _check(chain, loaded)
        return cls(chain, _in_pkcs8(loaded), algorithm)


def _check(chain: str, key: Any) -> None:
    """Check what C2PA's rules for certificates refuse, and readers only later."""
    from cryptography import x509

    try:
        leaf, *_ = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        raise StartupError(f"{CERTIFICATE}: is no certificate in PEM") from None
    if _public(leaf) != _public(key):
        raise StartupError(
            f"{CERTIFICATE}, {KEY}: cannot sign with them: the key is not that of the first certificate"
        )
    if leaf.issuer == leaf.subject:
        raise StartupError(
            f"{CERTIFICATE}: the first certificate is self-signed, which C2PA does not allow; it must be "
            "issued by a certificate authority (CA), which may be one of your own, and come first in the file"
        )


def _public(owner: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    encoded: bytes = owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _in_pkcs8(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    encoded: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return encoded.decode("ascii")


def _loaded(key: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    # No key, or one with a password.
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        return load_pem_private_key(key.encode(), None)
    return None


def _algorithm_of(key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise StartupError(
        f"{KEY}: is not a private key in PEM, without a password, of P-256, P-384, P-521, RSA or Ed25519"
    )


def _read(setting: str, path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise StartupError(f"{setting}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartupError(f"{setting}: {path} is not PEM") from None
