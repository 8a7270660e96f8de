"""The certificates of the page about TLS are what the processes take, and the settings name them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from atelier_generator.settings import GeneratorSettings
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.settings import ServiceSettings
from atelier_runtime.tls import TlsFiles, server_files
from tests.contract.tls_stack import Certificates, SecureStack, presented
from tests.docs.pages import EXECUTED, block, run_block

SERVICES: dict[str, type[ServiceSettings]] = {"generator": GeneratorSettings, "restorer": RestorerSettings}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("reader")
    run_block("certificates", made, {})
    return made


@pytest.fixture(scope="module")
def variables(folder: Path) -> dict[str, str]:
    """What the page exports."""
    text = block(*EXECUTED["tls settings"][:1], "sh", EXECUTED["tls settings"][1])
    done = subprocess.run(
        ["bash", "-ec", f"{text}\nenv -0"], cwd=folder, capture_output=True, text=True, check=True
    )
    pairs = (line.split("=", 1) for line in done.stdout.split("\0") if line.startswith("ATELIER_"))
    return {name: value for name, value in pairs if "TLS" in name}


def of(process: str, variables: dict[str, str]) -> dict[str, Any]:
    prefix = f"ATELIER_{process.upper()}_"
    return {k.removeprefix(prefix).lower(): v for k, v in variables.items() if k.startswith(prefix)}


@pytest.mark.parametrize("name", SERVICES)
def test_the_services_take_their_certificates(name: str, variables: dict[str, str]) -> None:
    given = of(name, variables)
    assert given.keys() == {"tls_cert", "tls_key", "tls_ca"} <= SERVICES[name].model_fields.keys()
    paths = {key: Path(value) for key, value in given.items()}
    files = TlsFiles.of_settings("TLS_", paths["tls_cert"], paths["tls_key"], paths["tls_ca"])
    assert server_files(files) is not None


class PageCertificates(Certificates):
    """Those that the page has made."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder / "tls"
        self.ca = self.folder / "ca.crt"
        self.variables = variables
        for suffix in (".crt", ".key"):
            (self.folder / f"services{suffix}").write_bytes((self.folder / f"restorer{suffix}").read_bytes())

    @property
    def gateway(self) -> dict[str, Any]:
        """The gateway's settings."""
        return of("gateway", self.variables)


def test_a_gateway_with_these_settings_serves_https_and_calls_services_that_ask_for_certificates(
    folder: Path, variables: dict[str, str]
) -> None:
    with SecureStack(PageCertificates(folder, variables)) as stack:
        assert stack.generate().json()["face_restoration_applied"]
        address = f"https://127.0.0.1:{stack.port}/livez"
        assert httpx.get(address, verify=stack.certificates.trust(), trust_env=False).status_code == 200
        assert presented(stack.port, stack.certificates.trust())
