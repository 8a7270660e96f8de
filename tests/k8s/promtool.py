"""Synthetic series of our processes, and promtool, which evaluates the rules and queries on them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.k8s import queries
from tests.k8s.manifests import BACKENDS
from tests.processes import program

GENERATED = 'atelier_request_duration_seconds_count{method="GenerateImage", code="OK"}'
GAUGES = (
    "atelier_requests_in_progress",
    "atelier_queue_depth",
    'atelier_backend_pending{backend="generator"}',
    'atelier_backend_pending{backend="restorer"}',
    'atelier_stage_peak_vram_bytes{stage="base"}',
    "process_resident_memory_bytes",
    "atelier_heap_in_use_bytes",
    "atelier_image_workers",
    "atelier_image_workers_busy",
    "atelier_image_queue_depth",
    "atelier_cpu_pool_busy",
    "atelier_gateway_bytes_in_flight",
    "atelier_gateway_connections",
    "atelier_lora_memory_bytes",
    'atelier_jobs{type="generate", status="queued"}',
    'atelier_jobs{type="restore", status="in_progress"}',
    "atelier_jobs_oldest_waiting_seconds",
    "atelier_job_file_bytes",
)
COUNTERS = (
    GENERATED,
    'atelier_request_duration_seconds_count{method="POST /generate", code="200"}',
    'atelier_request_duration_seconds_count{method="POST /restore", code="200"}',
    'atelier_job_duration_seconds_count{type="generate", outcome="completed"}',
    'atelier_key_requests_total{key="anonymous", code="200"}',
    'atelier_errors_total{reason="internal"}',
    'atelier_refusals_total{reason="invalid_request"}',
    'atelier_backend_failures_total{backend="restorer", reason="invalid_request"}',
    'atelier_backend_retries_total{backend="restorer", reason="queue_full"}',
    'atelier_stage_duration_seconds_sum{stage="base"}',
    "atelier_batch_size_sum",
    "atelier_batch_size_count",
    'atelier_faces_total{outcome="restored"}',
    "atelier_cancelled_steps_total",
    "atelier_spans_lost_total",
    "atelier_lora_loads_total",
    'atelier_image_workers_lost_total{cause="cancelled"}',
    'atelier_gateway_connections_closed_total{cause="malformed"}',
    'atelier_jobs_ended_total{type="generate", status="completed"}',
    'atelier_jobs_ended_total{type="restore", status="completed"}',
    'atelier_webhook_attempts_total{outcome="delivered"}',
)
QUIET = (
    'atelier_job_retries_total{type="generate"}',
    "atelier_job_leases_lost_total",
    'atelier_refusals_total{reason="queue_full"}',
    'atelier_unrestored_images_total{reason="restorer_busy"}',
    'atelier_job_duration_seconds_count{type="generate", outcome="failed"}',
)
"""Counters that stand still in a healthy process."""
BOUNDS = ("1.0", "20.0", "80.0", "3600.0", "+Inf")
BUCKETS = (
    "atelier_queue_wait_seconds_bucket",
    "atelier_expected_ratio_bucket",
    'atelier_request_duration_seconds_bucket{method="GenerateImage", code="OK"}',
    'atelier_request_duration_seconds_bucket{method="POST /generate", code="200"}',
    'atelier_request_duration_seconds_bucket{method="POST /restore", code="200"}',
    'atelier_job_duration_seconds_bucket{type="generate", outcome="completed"}',
    'atelier_stage_duration_seconds_bucket{stage="base"}',
    'atelier_job_wait_seconds_bucket{type="generate"}',
    'atelier_job_run_seconds_bucket{type="generate", status="completed"}',
)
MINUTES = 40
EXPIRY = 'atelier_tls_expiry_timestamp_seconds{setting="TLS_CERT"}'
"""In seconds since 1970, when the tests' time begins."""


def series(
    name: str,
    values: str,
    job: str = "atelier-generator",
    pod: str = "a",
    namespace: str = queries.NAMESPACE,
) -> dict[str, str]:
    """One synthetic series with the labels that a PodMonitor adds."""
    metric, _, labels = name.rstrip("}").partition("{")
    own = f'namespace="{namespace}", job="{job}", pod="{pod}"'
    return {"series": f"{metric}{{{', '.join(filter(None, (labels, own)))}}}", "values": values}


def cluster(gauges: str, counters: str) -> list[dict[str, str]]:
    """Everything that our healthy processes export, with these values."""
    made: list[dict[str, str]] = []
    for job in ("atelier-gateway", "atelier-generator", "atelier-restorer"):
        made += [series(name, gauges, job) for name in GAUGES]
        made += [series(name, counters, job) for name in COUNTERS]
        made += [series(name, f"1x{MINUTES}", job) for name in QUIET]
        made += [series("up", f"1x{MINUTES}", job), series(EXPIRY, f"{90 * 86400}x{MINUTES}", job)]
        for bucket in BUCKETS:
            label = "{" if "{" not in bucket else ", "
            made += [series(f'{bucket.rstrip("}")}{label}le="{le}"}}', counters, job) for le in BOUNDS]
    for backend in BACKENDS:
        job = f"atelier-{backend}"
        made += [series("atelier_model_load_seconds", f"12x{MINUTES}", job)]
        for kind, size in (("free", "40e9"), ("total", "80e9")):
            name = f'atelier_vram_bytes{{device="cuda:0", kind="{kind}"}}'
            made += [series(name, f"{size}x{MINUTES}", job)]
    return made


SCENARIOS = {
    "rising": cluster(f"0+1x{MINUTES}", f"0+30x{MINUTES}"),
    "steady": cluster(f"3x{MINUTES}", f"0+30x{MINUTES}"),
    "idle": cluster(f"0x{MINUTES}", f"100x{MINUTES}"),
    "empty": [],
}


OBJECTIVES = ("atelier-objectives", "atelier-slo", "atelier-burn")
"""The groups of rules that measure the objectives and tell of them."""
CAUSES = ("atelier",)
"""The group of all other alerts."""


def run(
    folder: Path,
    tests: list[dict[str, Any]],
    recording: dict[str, str] | None = None,
    groups: Sequence[str] = (*OBJECTIVES, *CAUSES),
) -> None:
    """Let promtool evaluate these groups, and `recording` as q0, q1, ...; every expectation must be met."""
    promtool = program("promtool")
    records = [{"record": f"q{i}", "expr": expr} for i, expr in enumerate((recording or {}).values())]
    rules = [group for group in queries.rules() if group["name"] in groups]
    rules.append({"name": "recorded", "rules": records})
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": rules}))
    checked = subprocess.run(
        [promtool, "check", "rules", "rules.yaml"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (folder / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
