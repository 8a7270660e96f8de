"""The command calls a restorer or a gateway over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives.runs import Run
from tests.authority import Authority
from tests.contract.tls_stack import Certificates, SecureStack


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureStack]:
    certificates = Certificates(tmp_path_factory.mktemp("tls"))
    certificates.authority.client().write(certificates.folder, "client")
    with SecureStack(certificates, tls_ca=certificates.ca) as stack:
        yield stack


def server(stack: SecureStack, kind: str) -> tuple[str, str]:
    return "--server", stack.url if kind == "gateway" else f"localhost:{stack.restorer_port}"


def presented(stack: SecureStack) -> tuple[object, ...]:
    folder = stack.certificates.folder
    return "--tls-cert", folder / "client.crt", "--tls-key", folder / "client.key"


@pytest.mark.parametrize("kind", ["gateway", "restorer"])
def test_images_are_restored_over_mutual_tls(
    run: Run, album: Path, tmp_path: Path, secure: SecureStack, kind: str
) -> None:
    ca = ("--tls-ca", secure.certificates.ca)
    ran = run("restore", album, tmp_path / "out", *server(secure, kind), *ca, *presented(secure))
    assert ran.code == 0, ran
    assert len([path for path in (tmp_path / "out").iterdir() if path.suffix == ".png"]) == 4


@pytest.mark.parametrize("kind", ["gateway", "restorer"])
def test_without_a_certificate_or_the_right_ca_nothing_is_sent(
    run: Run, album: Path, tmp_path: Path, secure: SecureStack, kind: str
) -> None:
    before = len(secure.restorer.requests)
    others = Authority("others").write(tmp_path)
    for flags in (
        ("--tls-ca", secure.certificates.ca),
        ("--tls-ca", others, *presented(secure)),
        (),
    ):
        ran = run("restore", album, tmp_path / "out", *server(secure, kind), *flags)
        assert ran.code == 1 and "cannot be reached" in ran.err + ran.out, ran
    assert len(secure.restorer.requests) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tls-ca", "ca.crt"], "--tls-ca is for --server"),
        (["--server", "http://a:1", "--tls-ca", "ca.crt"], "--tls-ca is for a URL with https"),
        (["--server", "a:1", "--tls-ca", "none"], "--tls-ca=none: cannot be read: No such file"),
        (["--server", "a:1", "--tls-cert", "client.crt"], "--tls-ca: is required with --tls-cert"),
        (
            ["--server", "a:1", "--tls-ca", "ca.crt", "--tls-key", "client.key"],
            "--tls-cert: is required with",
        ),
        (
            ["--server", "a:1", "--tls-ca", "ca.crt", "--tls-cert", "ca.crt", "--tls-key", "client.key"],
            "--tls-key=client.key: is not the key of --tls-cert=ca.crt",
        ),
    ],
)
def test_flags_that_cannot_work_are_named(
    run: Run,
    album: Path,
    tmp_path: Path,
    secure: SecureStack,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(secure.certificates.folder)
    ran = run("restore", album, tmp_path / "out", *flags)
    assert ran.code == 2 and message in ran.err, ran.err
