"""Every metric of every process, and the timer of a request's stages.

Prompts and IDs are never labels. A process exposes only metrics that apply to it: `build_registry` selects
those of its kind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from atelier_runtime import tracing
from atelier_runtime.heap import heap_in_use

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 120)
_LONG_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1800, 3600, 10_800)

REQUEST_DURATION = Histogram(
    "atelier_request_duration_seconds",
    "Wall time of a call, by method and status code.",
    ["method", "code"],
    buckets=_SECONDS,
    registry=None,
)
REQUESTS_IN_PROGRESS = Gauge(
    "atelier_requests_in_progress", "Calls that have started but not ended.", registry=None
)
ERRORS = Counter("atelier_errors_total", "Calls that failed, by reason.", ["reason"], registry=None)
REFUSALS = Counter(
    "atelier_refusals_total", "Calls refused before any work was done, by reason.", ["reason"], registry=None
)
STAGE_DURATION = Histogram(
    "atelier_stage_duration_seconds",
    "Wall time of a stage, between device synchronizations; requests that share it count once.",
    ["stage"],
    buckets=_SECONDS,
    registry=None,
)
STAGE_PEAK_VRAM = Gauge(
    "atelier_stage_peak_vram_bytes",
    "Peak device memory during the latest run of a stage. Absent on a CPU, and for prompts that are encoded "
    "beside other work.",
    ["stage"],
    registry=None,
)
QUEUE_WAIT = Histogram(
    "atelier_queue_wait_seconds",
    "Time that a request spends in the queue.",
    buckets=_SECONDS,
    registry=None,
)
EXPECTED_RATIO = Histogram(
    "atelier_expected_ratio",
    "Time that requests have had the device, over what they were expected to take.",
    buckets=(0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, 8),
    registry=None,
)
QUEUE_DEPTH = Gauge("atelier_queue_depth", "Requests waiting for the device.", registry=None)
IMAGE_WORKERS = Gauge("atelier_image_workers", "Processes that decode and encode images.", registry=None)
IMAGE_WORKERS_BUSY = Gauge("atelier_image_workers_busy", "Image workers that are busy.", registry=None)
IMAGE_WORKERS_LOST = Counter(
    "atelier_image_workers_lost_total",
    "Image workers lost, by cause: the call was canceled, decoding took too long, the worker crashed, ...",
    ["cause"],
    registry=None,
)
IMAGE_QUEUE_DEPTH = Gauge(
    "atelier_image_queue_depth", "Images that wait for a worker to decode or encode them.", registry=None
)
CPU_POOL_BUSY = Gauge(
    "atelier_cpu_pool_busy", "Threads that align, paste or measure; at most one for each CPU.", registry=None
)
BATCH_SIZE = Histogram(
    "atelier_batch_size",
    "Faces in one forward pass of the restorer; images in one pass of the generator, however many forward "
    "passes it takes.",
    buckets=(1, 2, 4, 8, 16, 32),
    registry=None,
)
FACES = Counter(
    "atelier_faces_total",
    "Faces detected, by outcome: restored, or the reason why not.",
    ["outcome"],
    registry=None,
)
CANCELLED_STEPS = Counter(
    "atelier_cancelled_steps_total",
    "Denoising steps that were not run because the call was canceled or its deadline expired.",
    registry=None,
)
BACKEND_PENDING = Gauge(
    "atelier_backend_pending",
    "Calls that the gateway has sent to a backend and that have not ended.",
    ["backend"],
    registry=None,
)
BACKEND_FAILURES = Counter(
    "atelier_backend_failures_total",
    "Calls of the gateway that failed in a backend after all retries, by reason.",
    ["backend", "reason"],
    registry=None,
)
BACKEND_RETRIES = Counter(
    "atelier_backend_retries_total",
    "Retries of the gateway, by the reason that the previous replica gave.",
    ["backend", "reason"],
    registry=None,
)
UNRESTORED_IMAGES = Counter(
    "atelier_unrestored_images_total",
    "Generated images that were returned as they were, since the call to the restorer failed, by the reason "
    "that the response gives.",
    ["reason"],
    registry=None,
)
KEY_REQUESTS = Counter(
    "atelier_key_requests_total",
    "HTTP requests by the name of their API key and status code; key: anonymous where none is needed, none "
    "where the request was refused for the lack of one.",
    ["key", "code"],
    registry=None,
)
CERTIFICATE_EXPIRY = Gauge(
    "atelier_tls_expiry_timestamp_seconds",
    "When the certificates in use expire, in seconds since 1970, by the setting that names their file; of "
    "several CAs the last.",
    ["setting"],
    registry=None,
)
SPANS_LOST = Counter(
    "atelier_spans_lost_total",
    "Spans of traces that were not delivered to OTEL_EXPORTER_OTLP_ENDPOINT.",
    registry=None,
)
BYTES_IN_FLIGHT = Gauge(
    "atelier_gateway_bytes_in_flight",
    "Bytes of requests' bodies and responses that the gateway holds.",
    registry=None,
)
CONNECTIONS = Gauge("atelier_gateway_connections", "Open HTTP connections.", registry=None)
CONNECTIONS_CLOSED = Counter(
    "atelier_gateway_connections_closed_total",
    "Connections that the gateway closed on a client, by cause: idle ones evicted or new ones refused at the "
    "limit of connections, a slow or oversized header, a malformed request, a body that did not end, a "
    "response that was not read.",
    ["cause"],
    registry=None,
)
JOBS = Gauge(
    "atelier_jobs",
    "Jobs in the database that have not expired, by type and status. Every gateway reports all of them.",
    ["type", "status"],
    registry=None,
)
JOBS_OLDEST_WAITING = Gauge(
    "atelier_jobs_oldest_waiting_seconds",
    "For how long the job has waited that could have been begun first; 0: none could.",
    registry=None,
)
JOBS_ENDED = Counter(
    "atelier_jobs_ended_total",
    "Jobs that this gateway has brought to an end, by type and status.",
    ["type", "status"],
    registry=None,
)
JOB_WAIT = Histogram(
    "atelier_job_wait_seconds",
    "Time from a job's acceptance to its first attempt.",
    ["type"],
    buckets=_LONG_SECONDS,
    registry=None,
)
JOB_RUN = Histogram(
    "atelier_job_run_seconds",
    "Time from a job's first attempt to its end.",
    ["type", "status"],
    buckets=_LONG_SECONDS,
    registry=None,
)
JOB_DURATION = Histogram(
    "atelier_job_duration_seconds",
    "Time from a job's acceptance to its end, by how it ended: completed, rejected (it asked for what cannot "
    "be done), failed (through a fault of ours). Canceled ones are not in it.",
    ["type", "outcome"],
    buckets=_LONG_SECONDS,
    registry=None,
)
JOB_RETRIES = Counter(
    "atelier_job_retries_total",
    "Attempts that failed or were lost and that count, so that the job was begun again, by type.",
    ["type"],
    registry=None,
)
JOB_LEASES_LOST = Counter(
    "atelier_job_leases_lost_total",
    "Jobs that this gateway carried out too slowly to keep, so that another may have them.",
    registry=None,
)
JOB_FILE_BYTES = Gauge(
    "atelier_job_file_bytes",
    "Size of all inputs and outputs of jobs that are kept.",
    registry=None,
)
WEBHOOK_ATTEMPTS = Counter(
    "atelier_webhook_attempts_total",
    "Attempts to post an event, by outcome: delivered, failed, blocked (an address that may not be called), "
    "gone (the receiver wants no more), given_up (the last attempt failed).",
    ["outcome"],
    registry=None,
)
LORA_MEMORY = Gauge(
    "atelier_lora_memory_bytes",
    "Memory of the LoRAs that are loaded, or are being read.",
    registry=None,
)
LORA_LOADS = Counter(
    "atelier_lora_loads_total",
    "LoRAs that were read from their files. If it keeps growing, LORA_MEMORY_MB is too small.",
    registry=None,
)
MODEL_LOAD = Gauge(
    "atelier_model_load_seconds",
    "Time from the start of loading to the end of the warm-up.",
    registry=None,
)
BUILD_INFO = Gauge(
    "atelier_build_info",
    "Always 1; the labels say what runs.",
    ["version", "model_set", "dtype"],
    registry=None,
)

Process = Literal["gateway", "generator", "restorer"]

HEAP_IN_USE = Gauge(
    "atelier_heap_in_use_bytes",
    "Memory that the process holds from malloc. What is freed, and kept for the next request, is not in it.",
    registry=None,
)
HEAP_IN_USE.set_function(heap_in_use)

_EVERYWHERE = (
    REQUEST_DURATION,
    REQUESTS_IN_PROGRESS,
    ERRORS,
    REFUSALS,
    BUILD_INFO,
    CERTIFICATE_EXPIRY,
    SPANS_LOST,
    HEAP_IN_USE,
)
_IMAGES = (IMAGE_WORKERS, IMAGE_WORKERS_BUSY, IMAGE_WORKERS_LOST, IMAGE_QUEUE_DEPTH)
_SERVICES = (STAGE_DURATION, STAGE_PEAK_VRAM, QUEUE_WAIT, QUEUE_DEPTH, MODEL_LOAD, *_IMAGES)
_JOBS = (
    JOBS,
    JOBS_OLDEST_WAITING,
    JOBS_ENDED,
    JOB_WAIT,
    JOB_RUN,
    JOB_DURATION,
    JOB_RETRIES,
    JOB_LEASES_LOST,
    JOB_FILE_BYTES,
    WEBHOOK_ATTEMPTS,
)
_BY_PROCESS = {
    "gateway": (
        BACKEND_PENDING,
        BACKEND_FAILURES,
        BACKEND_RETRIES,
        UNRESTORED_IMAGES,
        STAGE_DURATION,
        KEY_REQUESTS,
        BYTES_IN_FLIGHT,
        CONNECTIONS,
        CONNECTIONS_CLOSED,
        *_JOBS,
    ),
    "generator": (*_SERVICES, BATCH_SIZE, CANCELLED_STEPS, EXPECTED_RATIO, LORA_MEMORY, LORA_LOADS),
    "restorer": (*_SERVICES, CPU_POOL_BUSY, BATCH_SIZE, FACES),
}


def build_registry(process: Process) -> CollectorRegistry:
    """Return a registry with the metrics of a process, its memory and CPU time among them."""
    registry = CollectorRegistry()
    for metric in (*_EVERYWHERE, *_BY_PROCESS[process]):
        registry.register(metric)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


@dataclass(frozen=True)
class StageReport:
    """The cost of one stage; `peak_vram_bytes` is None on a CPU."""

    stage: str
    seconds: float
    peak_vram_bytes: int | None = None


class DeviceProbe(Protocol):
    """What the timer needs from a device."""

    def synchronize(self) -> None:
        """Wait until everything submitted to the device is done."""

    def reset_peak(self) -> None:
        """Start a new measurement of the peak memory."""

    def peak_bytes(self) -> int | None:
        """Return the peak memory since `reset_peak`; None where it is unknown."""


class NoProbe:
    """For a CPU: nothing to wait for, no device memory."""

    def synchronize(self) -> None:
        """Do nothing."""

    def reset_peak(self) -> None:
        """Do nothing."""

    def peak_bytes(self) -> int | None:
        """Return None."""
        return None


class StageTimer:
    """Times the stages of one request: histograms, spans and the response's `stages` are the same figures."""

    def __init__(self, probe: DeviceProbe | None = None, reports: list[StageReport] | None = None) -> None:
        """`reports`: the list to append to, by default a new one; two timers can share one.

        The stages' spans are below the one that is current now, wherever the stages run.
        """
        self._probe = probe or NoProbe()
        self._span = tracing.current()
        self.reports: list[StageReport] = [] if reports is None else reports

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside. A stage that raises is not reported."""
        self._probe.synchronize()
        self._probe.reset_peak()
        with tracing.span(name, of=self._span) as span:
            start = time.perf_counter()
            yield
            self._probe.synchronize()
            report = StageReport(name, time.perf_counter() - start, self._probe.peak_bytes())
            if span is not None:
                span.lasted(report.seconds)
            STAGE_DURATION.labels(name).observe(report.seconds, tracing.exemplar())
        self.reports.append(report)
        if report.peak_vram_bytes is not None:
            STAGE_PEAK_VRAM.labels(name).set(report.peak_vram_bytes)
