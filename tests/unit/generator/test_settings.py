"""The generator's own settings."""

from __future__ import annotations

import pytest

from atelier_generator.settings import GeneratorSettings, read_sizes
from atelier_runtime import settings
from atelier_runtime.sizes import Size


def test_warm_sizes_are_read_in_order_and_once() -> None:
    given = "1024x1024, 832x1216,1024x1024"
    assert read_sizes(GeneratorSettings(warm_sizes=given).warm_sizes) == (Size(1024, 1024), Size(832, 1216))
    assert read_sizes(GeneratorSettings().warm_sizes) == (Size(1024, 1024),)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("1024", "'1024' is not a size: write WIDTHxHEIGHT in px, separated by commas"),
        ("", "'' is not a size"),
        ("1024x1024,", "'' is not a size"),
        ("1024×1024", "is not a size"),
        ("-256x256", "is not a size"),
        ("248x256", "no request may have 248x256: sides are 256 to 2048 px, in multiples of 8"),
        ("256x2056", "no request may have 256x2056"),
        ("1024x1024 1000x1004", "is not a size"),
        ("1000x1004", "no request may have 1000x1004"),
        (",".join(f"256x{side}" for side in range(256, 256 + 17 * 8, 8)), "17 sizes are more than 16"),
    ],
)
def test_other_warm_sizes_stop_the_start_with_the_variable_and_the_reason(
    given: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATELIER_GENERATOR_WARM_SIZES", given)
    with pytest.raises(SystemExit) as caught:
        settings.load(GeneratorSettings)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"ATELIER_GENERATOR_WARM_SIZES={given}: " in error and reason in error
