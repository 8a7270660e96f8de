"""Which number format `auto` takes; the answers of the driver are replaced, there need be no card."""

from contextlib import nullcontext

import pytest
import torch

from atelier_runtime.device import choose_dtype

CARD = torch.device("cuda", 1)


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_takes_bfloat16_only_from_a_card_that_computes_in_it(monkeypatch, native, expected):
    asked = []

    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation  # as torch answers: every card can emulate it

    def chosen(device: torch.device) -> nullcontext:
        asked.append(device)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "device", chosen)
    assert choose_dtype("auto", CARD) == expected
    assert asked == [CARD]


def test_auto_is_float32_on_a_cpu_and_a_named_format_is_kept():
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    for name in ("float32", "bfloat16", "float16"):
        assert choose_dtype(name, CARD) == getattr(torch, name)
