"""Our three processes under a real Prometheus: every query finds its metrics there."""

from __future__ import annotations

import base64
import contextlib
import math
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import prometheus_client
import pytest
import torch
import yaml

from atelier_gateway.http.errors import HTTP_STATUS
from atelier_runtime import metrics
from atelier_runtime.errors import ErrorReason
from atelier_runtime.vram import VramCollector
from tests import tiny_restorer
from tests.k8s import queries
from tests.k8s.manifests import BACKENDS, Workload, of_kind, workloads
from tests.k8s.replicas import photo
from tests.processes import free_port, process, program, ready, wait_for

pytestmark = pytest.mark.slow

REQUEST = {"prompt": "red apple", "width": 256, "height": 256, "num_inference_steps": 1, "seed": 1}


@dataclass
class Watched:
    """The gateway, and the Prometheus that scrapes it and the services behind it."""

    gateway: str
    prometheus: str
    start_seconds: dict[str, float]
    jobs_database: Path
    restorer: subprocess.Popen[bytes]

    def get(self, path: str, **parameters: str) -> Any:
        response = httpx.get(f"{self.prometheus}/api/v1/{path}", params=parameters, timeout=30)
        assert response.status_code == 200, f"{parameters}: {response.text}"
        return response.json()["data"]

    def values(self, query: str) -> list[float]:
        data = self.get("query", query=query)
        assert data["resultType"] == "vector"
        return [float(sample["value"][1]) for sample in data["result"]]


@pytest.fixture
def gpu_metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of an exporter of what the three have not here: device memory, and a certificate.

    The collector is real, the GPU is not.
    """
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 << 30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 << 30)
    registry = prometheus_client.CollectorRegistry()
    registry.register(VramCollector(torch.device("cuda", 0)))
    registry.register(metrics.STAGE_PEAK_VRAM)
    metrics.STAGE_PEAK_VRAM.labels("base").set(30 << 30)
    registry.register(metrics.CERTIFICATE_EXPIRY)
    metrics.CERTIFICATE_EXPIRY.labels("TLS_CERT").set(time.time() + 90 * 86400)
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=registry)
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def watched(tmp_path: Path, gpu_metrics: int) -> Iterator[Watched]:
    gateway, gateway_metrics, *ports = (free_port() for _ in range(6))
    generator, generator_metrics, restorer, restorer_metrics = ports
    model_set = tiny_restorer.build_set(
        tmp_path / "set",
        detector=tiny_restorer.detector_state({tiny_restorer.FACES_OF_256_PX: 0.9}),
        codeformer=tiny_restorer.codeformer_state(),
    )
    started = time.monotonic()
    with ExitStack() as running:
        run = running.enter_context
        run(process("generator", tmp_path / "g.log", PORT=generator, METRICS_PORT=generator_metrics))
        child = run(
            process(
                "restorer",
                tmp_path / "r.log",
                PORT=restorer,
                METRICS_PORT=restorer_metrics,
                MODEL_SET=model_set,
            )
        )
        addresses = {"GENERATOR": f"127.0.0.1:{generator}", "RESTORER": f"127.0.0.1:{restorer}"}
        database = tmp_path / "jobs.db"
        settings = {"JOBS_DATABASE": f"sqlite:///{database}", "JOBS_FILES": f"file:{tmp_path / 'jobs'}"}
        settings |= {"WEBHOOK_SECRETS": f"whsec_{'QUJD' * 8}", "WEBHOOK_PRIVATE_ADDRESSES": "true"}
        settings |= addresses
        settings |= {"PORT": str(gateway), "METRICS_PORT": str(gateway_metrics)}
        run(process("gateway", tmp_path / "w.log", BACKEND_WAIT_SECONDS=0, **settings))
        url = f"http://127.0.0.1:{gateway}"
        wait_for(lambda: ready(url))
        start_seconds = dict.fromkeys(BACKENDS, time.monotonic() - started)
        ports_of = {"gateway": gateway_metrics, "generator": generator_metrics, "restorer": restorer_metrics}
        jobs = [_monitored(workload, ports_of[workload.name]) for workload in workloads("autoscale")]
        jobs.append(_job("gpu", gpu_metrics, "gpu-0", "/metrics"))
        rules = {"groups": [{**group, "interval": "2s"} for group in queries.rules()]}
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
        often = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "2s")
        config = {"global": often, "scrape_configs": jobs}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config | {"rule_files": ["rules.yaml"]}))
        yield Watched(url, run(_prometheus(tmp_path)), start_seconds, database, child)


def _monitored(workload: Workload, port: int) -> dict[str, object]:
    """What the operator makes of a PodMonitor, except for the address."""
    monitor = of_kind(workload.manifests, "PodMonitor")[f"atelier-{workload.name}"]["spec"]
    [endpoint] = monitor["podMetricsEndpoints"]
    return _job(workload.labels[monitor["jobLabel"]], port, f"{workload.name}-0", endpoint["path"])


def _job(name: str, port: int, pod: str, path: str) -> dict[str, object]:
    labels = {"namespace": queries.NAMESPACE, "pod": pod}  # which the operator adds
    target = {"targets": [f"127.0.0.1:{port}"], "labels": labels}
    return {"job_name": name, "metrics_path": path, "static_configs": [target]}


class _prometheus:
    """A Prometheus as a context; its value is the address."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()

    def __enter__(self) -> str:
        self._log = (self._folder / "prometheus.log").open("wb")
        self._child = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        url = f"http://127.0.0.1:{self._port}"
        wait_for(lambda: self._scraped(url), 60)
        return url

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        self._child.wait(30)
        self._log.close()

    @staticmethod
    def _scraped(url: str) -> bool:
        try:
            response = httpx.get(f"{url}/api/v1/query", params={"query": "up == 1"}, timeout=5)
        except httpx.TransportError:
            return False
        return response.status_code == 200 and len(response.json()["data"]["result"]) == 4


def job(watched: Watched, kind: str, **given: object) -> tuple[str, str]:
    """Submit a job whose webhook refuses its event; return its ID and how it ended."""
    webhook = {"url": f"{watched.gateway}/livez"}
    body = {"type": kind, "input": given, "webhook": webhook}
    accepted = httpx.post(f"{watched.gateway}/v1/jobs", json=body, timeout=60)
    assert accepted.status_code == 202, accepted.text
    job_id: str = accepted.json()["id"]
    return job_id, end_of(watched, job_id)


def end_of(watched: Watched, job_id: str) -> str:
    """Wait until a job has ended; return its status."""

    def status() -> str:
        found: str = httpx.get(f"{watched.gateway}/v1/jobs/{job_id}", timeout=30).json()["status"]
        return found

    wait_for(lambda: status() not in ("queued", "in_progress"), 120)
    return status()


def lose_runner(watched: Watched, job_id: str) -> None:
    """Make a job look as a gateway leaves it that was killed while it carried it out."""
    lost = "UPDATE jobs SET status = 'in_progress', lease_until = 0, runner = 'lost' WHERE id = ?"
    with contextlib.closing(sqlite3.connect(watched.jobs_database)) as connection, connection:
        connection.execute(lost, (job_id,))


def cause_jobs(watched: Watched) -> None:
    """Make each metric of jobs have a series: one that ends, is lost and ends again, and one that fails."""
    job_id, status = job(watched, "generate", **REQUEST)
    assert status == "completed"
    lose_runner(watched, job_id)
    assert end_of(watched, job_id) == "completed"
    broken = base64.b64encode(photo()[:1000]).decode()
    assert job(watched, "detect", image=broken)[1] == "failed"


def cause_everything(watched: Watched) -> None:
    """Make each metric with labels have a series: faces, refusals, errors, jobs, a service that is gone."""
    cause_jobs(watched)
    generated = httpx.post(f"{watched.gateway}/generate", json=REQUEST, timeout=120)
    assert generated.status_code == 200 and generated.json()["face_restoration_applied"], generated.text[:500]
    assert httpx.post(f"{watched.gateway}/generate", json={}, timeout=60).status_code == 422
    used = queries.burn_alerts() | queries.recorded() | queries.panels()
    named = {matcher.value for query in used.values() for matcher in queries.matchers_in(query)}
    for path in (value.removeprefix("POST ") for value in named if re.fullmatch(r"POST [/\w-]+", value)):
        httpx.post(f"{watched.gateway}{path}", json={}, timeout=60)
    with pytest.raises(httpx.ReadTimeout):  # a client that leaves
        httpx.post(f"{watched.gateway}/generate", json=REQUEST | {"num_inference_steps": 150}, timeout=1)
    wait_for(lambda: len(watched.values('atelier_faces_total{outcome="restored"}')) == 1, 30)
    watched.restorer.terminate()
    watched.restorer.wait(60)
    failed = httpx.post(f"{watched.gateway}/detect", files={"image": photo()}, timeout=60)
    assert failed.status_code == 503, failed.text
    lost = httpx.post(f"{watched.gateway}/generate", json=REQUEST, timeout=120)
    assert lost.json()["face_restoration_reason"] == "restorer_unavailable"
    unrestored = 'atelier_unrestored_images_total{reason="restorer_unavailable"} == 1'
    wait_for(lambda: len(watched.values(unrestored)) == 1, 30)


def check_no_nan(watched: Watched, used: dict[str, str]) -> dict[str, int]:
    """Evaluate all; return how many samples each returned."""
    found = {}
    for name, query in used.items():
        values = watched.values(query)
        assert not any(math.isnan(value) for value in values), name
        found[name] = len(values)
    return found


def check_labels(watched: Watched, used: dict[str, str]) -> None:
    """Every label value that a query selects or excludes is one that a series has; so is every grouping."""
    for name, query in used.items():
        for matcher in queries.matchers_in(query):
            if matcher.label == "reason" and matcher.metric != "atelier_unrestored_images_total":
                alternatives = set(matcher.value.split("|"))
                assert alternatives <= set(ErrorReason), f"{name}: {matcher.selector}"
            elif (matcher.label, matcher.value) == ("code", "429"):  # of a full queue
                assert HTTP_STATUS[ErrorReason.QUEUE_FULL] == 429
            elif matcher.value == "given_up":  # after three days
                [family] = metrics.WEBHOOK_ATTEMPTS.describe()
                assert matcher.metric == f"{family.name}_total" and matcher.value in family.documentation
            else:
                found = watched.values(f"last_over_time({matcher.selector}[10m])")
                assert found, f"{name}: no series has {matcher.selector}"
        read = queries.metrics_in(query)
        known = {label for metric in read for label in watched.get("labels", **{"match[]": metric})}
        assert queries.labels_grouped_by(query) <= known, name


def rules_in(watched: Watched, health: str) -> list[str]:
    """The names of the rules with this health."""
    groups = watched.get("rules")["groups"]
    return sorted(rule["name"] for group in groups for rule in group["rules"] if rule["health"] == health)


def test_every_query_finds_its_metrics_in_a_live_prometheus(watched: Watched) -> None:
    scaled = {name: query for name, (query, _) in queries.autoscalers().items()}
    used = {**scaled, "adapter": queries.adapter(), **queries.panels(), **queries.alerts()}
    used |= queries.burn_alerts() | queries.recorded()
    before = check_no_nan(watched, used)
    assert all(before[name] == 1 for name in scaled), "each returns one number, before the first call too"

    cause_everything(watched)
    lost = f'atelier_backend_failures_total{{backend="restorer", reason="{ErrorReason.SERVICE_UNAVAILABLE}"}}'
    wait_for(lambda: len(watched.values(lost)) == 1, 30)  # beside the series of the photo that was broken
    read = {name: queries.metrics_in(query) for name, query in used.items()}
    assert all(read.values())
    exported = set().union(*read.values())
    with contextlib.suppress(AssertionError):  # rules are evaluated every two seconds
        wait_for(lambda: exported <= set(watched.get("label/__name__/values")), 60)
    names = set(watched.get("label/__name__/values"))
    for name, metrics_read in read.items():
        assert metrics_read <= names, f"{name}: nothing exports {metrics_read - names}"
    check_labels(watched, used)
    after = check_no_nan(watched, used)
    assert all(after[name] == 1 for name in scaled if "gateway" in name or "generator" in name)
    wait_for(lambda: rules_in(watched, "unknown") == [], 30)
    names_of_rules = [rule.get("alert") or rule["record"] for g in queries.rules() for rule in g["rules"]]
    assert rules_in(watched, "ok") == sorted(names_of_rules)


def test_the_startup_window_is_twice_the_measured_load(watched: Watched) -> None:
    for workload in (w for w in workloads("cpu-demo") if w.name in BACKENDS):
        job, ready_s = f"atelier-{workload.name}", watched.start_seconds[workload.name]
        [load_s] = watched.values(f'last_over_time(atelier_model_load_seconds{{job="{job}"}}[5m])')
        print(f"{workload.name}: loaded in {load_s:.1f} s, ready {ready_s:.1f} s after its start")
        assert 0 < load_s <= ready_s
        probe = workload.container["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 2 * ready_s
