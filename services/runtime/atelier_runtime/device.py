"""The device: which one, its dtype and its name."""

from __future__ import annotations

import functools

import torch

from atelier_runtime.settings import StartupError

_CPU_ALLOCATOR = "DefaultCPUAllocator: "
"""What the message of a failed allocation of torch on the CPU contains."""

_ONEDNN_WITHOUT_MEMORY = "could not create a primitive"
"""All that oneDNN says where a convolution that it has planned finds no memory; other failures say more."""


def choose_device(setting: str) -> torch.device:
    """Return the device of a setting: `auto` is the first CUDA device if there is one, else the CPU."""
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(setting)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        device = torch.device("cuda", device.index or 0)
        if device.index >= count:
            raise StartupError(f"DEVICE={setting}: this machine has {count} CUDA devices")
    return device


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a setting.

    `auto` is bfloat16 where the device computes in it: a GPU of compute capability 8.0 (Ampere) or later, a
    CPU with AMX or AVX512-BF16. Elsewhere it is float16 on a GPU and float32 on a CPU.
    """
    if setting == "auto":
        if computes_in_bfloat16(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[setting]


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16; others emulate it, many times slower."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@functools.cache  # asked for by every status call, on the event loop
def device_name(device: torch.device) -> str:
    """Return the name of the GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: a generic name will do
    return "CPU"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that the device ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch has that class for GPUs only
    return isinstance(error, RuntimeError) and (
        _CPU_ALLOCATOR in str(error) or str(error) == _ONEDNN_WITHOUT_MEMORY
    )
