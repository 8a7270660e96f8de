import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from atelier_runtime import images, settings


class Settings(settings.ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="ATELIER_TEST_", frozen=True)

    port: int = 1234
    metrics_port: int = 0


def test_the_environment_is_read_and_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_TEST_PORT", "5000")
    loaded: Any = settings.load(Settings)  # mypy would refuse the assignment too
    assert loaded.port == 5000
    with pytest.raises(ValidationError, match="frozen"):
        loaded.port = 1


@pytest.mark.parametrize(
    ("given", "warns"),
    [
        ({}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::", "anonymous": "warn", "api_keys": "keys.toml"}, True),
        ({"host": "0.0.0.0", "api_keys": "keys.toml"}, False),
        ({"host": "0.0.0.0", "anonymous": "refuse"}, False),
        ({"host": "0.0.0.0", "anonymous": "allow"}, False),
        ({"host": "0.0.0.0", "tls_ca": "ca.crt"}, False),
    ],
)
def test_it_is_said_where_whoever_reaches_the_port_is_let_in(given: dict[str, Any], warns: bool) -> None:
    assert Settings(**given).warns_of_anonymous is warns


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUEUE_CAPACITY", "many"),
        ("DEVICE", "tpu"),
        ("DTYPE", "int8"),
        ("MAX_PIXELS", "-1"),
        ("MAX_PIXELS", "600000000"),
    ],
)
def test_a_bad_value_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"ATELIER_TEST_{name}", value)
    with pytest.raises(SystemExit) as caught:
        settings.load(Settings)
    assert caught.value.code == 2
    assert f"ATELIER_TEST_{name}={value}" in capsys.readouterr().err


def test_the_largest_image_fits_into_the_largest_grpc_message() -> None:
    assert images.message_limit_bytes(Settings(max_pixels=500_000_000).max_pixels) < 2**31


def test_the_process_stops_with_the_variable_on_standard_error() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "atelier_restorer", "serve"],
        env={"ATELIER_RESTORER_PORT": "99999", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 2
    assert "ATELIER_RESTORER_PORT=99999" in run.stderr
    assert "Traceback" not in run.stderr
