"""Servers, and a run of `make models` that does not depend on this machine's settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.answering_server import AnsweringServer, answering_server
from tests.one_file_fetch import (
    WHOLE,
    Fetch,
)

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HF_TOKEN", "HF_ENDPOINT")


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *(name.upper() for name in PROXIES), *OTHERS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    with answering_server() as served:
        served.answers = [WHOLE]
        yield served


@pytest.fixture
def other() -> Iterator[AnsweringServer]:
    with answering_server() as served:
        served.answers = [WHOLE]
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "set"


@pytest.fixture
def secure() -> Iterator[AnsweringServer]:
    with answering_server(tls=True) as served:
        served.answers = [WHOLE]
        yield served


@pytest.fixture
def fetch(folder: Path, capsys: pytest.CaptureFixture[str]) -> Fetch:
    return Fetch(folder, capsys)
