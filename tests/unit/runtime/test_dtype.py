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


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"architecture": "aarch64"}, torch.float32),
    ],
    ids=["AVX512-BF16", "AMX", "AVX512", "ARM"],
)
def test_auto_is_bfloat16_only_on_a_cpu_that_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_dtype("auto", torch.device("cpu")) == expected


def test_this_torch_names_the_capabilities_that_are_looked_for() -> None:
    capabilities = torch.cpu.get_capabilities()
    assert capabilities["architecture"] != "x86_64" or {"avx512_bf16", "amx_bf16"} <= capabilities.keys()


def test_a_named_dtype_is_kept() -> None:
    for name in ("float32", "bfloat16", "float16"):
        assert choose_dtype(name, CARD) == getattr(torch, name)
