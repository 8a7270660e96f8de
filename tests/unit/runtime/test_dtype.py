"""The dtype that `auto` chooses; the driver is replaced, so no graphics card is needed."""

from contextlib import nullcontext

import pytest
import torch

from atelier_runtime.device import choose_dtype

CARD = torch.device("cuda", 1)


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_is_bfloat16_only_on_a_card_that_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: torch.dtype
) -> None:
    devices = []

    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation  # like torch: every card can emulate it

    def enter(device: torch.device) -> nullcontext[None]:
        devices.append(device)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "device", enter)
    assert choose_dtype("auto", CARD) == expected
    assert devices == [CARD]


def test_auto_is_float32_on_a_cpu_and_a_named_dtype_is_kept() -> None:
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    for name in ("float32", "bfloat16", "float16"):
        assert choose_dtype(name, CARD) == getattr(torch, name)
