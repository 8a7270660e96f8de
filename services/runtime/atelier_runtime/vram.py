"""Device memory: the gauges in /metrics, and the peak of each stage."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from atelier_runtime.metrics import DeviceProbe, NoProbe


class CudaProbe:
    """Synchronizes with a CUDA device and reads its peak memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def synchronize(self) -> None:
        """Wait for the device's streams."""
        torch.cuda.synchronize(self._device)

    def reset_peak(self) -> None:
        """Start a new measurement of the peak."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int | None:
        """Return the allocator's peak since the last reset."""
        return torch.cuda.max_memory_allocated(self._device)


def probe_for(device: torch.device) -> DeviceProbe:
    """Return the probe for a device."""
    return CudaProbe(device) if device.type == "cuda" else NoProbe()


def memory_info(device: torch.device) -> tuple[int, int] | None:
    """Return (free, total) bytes of a CUDA device, None for a CPU."""
    return torch.cuda.mem_get_info(device) if device.type == "cuda" else None


class VramCollector(Collector):
    """`atelier_vram_bytes{device,kind}`, read when scraped. Yields nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Describe the family without reading the device."""
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the device."""
        info = memory_info(self._device)
        if info is None:
            return
        family = self._family()
        values = {
            "allocated": torch.cuda.memory_allocated(self._device),
            "reserved": torch.cuda.memory_reserved(self._device),
            "free": info[0],
            "total": info[1],
        }
        for kind, value in values.items():
            family.add_metric([str(self._device), kind], value)
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "atelier_vram_bytes",
            "Device memory: allocated and reserved by this process; free and total of the device.",
            labels=["device", "kind"],
        )
