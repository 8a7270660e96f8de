"""Our three processes under a real Prometheus: every query of ours finds its metrics there."""

from __future__ import annotations

import math
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

from atelier_runtime import metrics
from atelier_runtime.errors import ErrorReason
from atelier_runtime.vram import VramCollector
from tests import tiny_restorer
from tests.k8s import queries
from tests.k8s.manifests import STAGES, Workload, of_kind, overlay, workloads
from tests.processes import free_port, process, program, ready, wait_for

pytestmark = pytest.mark.slow

ORDER = {"prompt": "red apple", "width": 256, "height": 256, "num_inference_steps": 1, "seed": 1}


@dataclass
class Watched:
    """The processes' gateway, and the Prometheus that scrapes all of them."""

    gateway: str
    prometheus: str
    start_seconds: dict[str, float]
    restorer: subprocess.Popen[bytes]

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.prometheus}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def values(self, query: str) -> list[float]:
        data = self.ask("query", query=query)
        assert data["resultType"] == "vector"
        return [float(sample["value"][1]) for sample in data["result"]]


@pytest.fixture
def gpu_metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of an exporter of made-up device memory, for machines without a GPU; the collector is real."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 << 30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 << 30)
    registry = prometheus_client.CollectorRegistry()
    registry.register(VramCollector(torch.device("cuda", 0)))
    registry.register(metrics.STAGE_PEAK_VRAM)
    metrics.STAGE_PEAK_VRAM.labels("base").set(30 << 30)
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=registry)
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def watched(tmp_path: Path, gpu_metrics: int) -> Iterator[Watched]:
    door, *ports = (free_port() for _ in range(5))
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
        run(process("gateway", tmp_path / "w.log", PORT=door, STAGE_WAIT_SECONDS=0, **addresses))
        url = f"http://127.0.0.1:{door}"
        wait_for(lambda: ready(url))
        start_seconds = dict.fromkeys(STAGES, time.monotonic() - started)
        ports_of = {"gateway": door, "generator": generator_metrics, "restorer": restorer_metrics}
        jobs = [_monitored(workload, ports_of[workload.name]) for workload in workloads("autoscale")]
        jobs.append(_job("gpu", gpu_metrics, "gpu-0", "/metrics"))
        rules = {"groups": queries.rules()}
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
        often = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "2s")
        config = {"global": often, "scrape_configs": jobs}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config | {"rule_files": ["rules.yaml"]}))
        yield Watched(url, run(_prometheus(tmp_path)), start_seconds, child)


def _monitored(workload: Workload, port: int) -> dict[str, object]:
    """What the operator makes of a PodMonitor, but for the address."""
    monitor = of_kind(workload.manifests, "PodMonitor")[f"atelier-{workload.name}"]["spec"]
    [endpoint] = monitor["podMetricsEndpoints"]
    return _job(workload.labels[monitor["jobLabel"]], port, f"{workload.name}-0", endpoint["path"])


def _job(name: str, port: int, pod: str, path: str) -> dict[str, object]:
    labels = {"namespace": queries.NAMESPACE, "pod": pod}  # which the operator adds
    target = {"targets": [f"127.0.0.1:{port}"], "labels": labels}
    return {"job_name": name, "metrics_path": path, "static_configs": [target]}


class _prometheus:
    """A Prometheus as a context; gives its address."""

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
            answer = httpx.get(f"{url}/api/v1/query", params={"query": "up == 1"}, timeout=5)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and len(answer.json()["data"]["result"]) == 4


def bring_about_everything(watched: Watched) -> None:
    """Make each metric with labels have a series: faces, refusals, errors, and a stage that is gone."""
    drawn = httpx.post(f"{watched.gateway}/generate", json=ORDER, timeout=120)
    assert drawn.status_code == 200 and drawn.json()["face_restoration_applied"], drawn.text[:500]
    assert httpx.post(f"{watched.gateway}/generate", json={}, timeout=60).status_code == 422
    wait_for(lambda: len(watched.values('atelier_faces_total{outcome="restored"}')) == 1, 30)
    watched.restorer.terminate()
    watched.restorer.wait(60)
    lost = httpx.post(f"{watched.gateway}/generate", json=ORDER, timeout=120)
    assert lost.json()["face_restoration_reason"] == "restorer_unavailable"


def check_no_nan(watched: Watched, asked: dict[str, str]) -> dict[str, int]:
    """Evaluate all; return how many samples each gave."""
    found = {}
    for name, query in asked.items():
        values = watched.values(query)
        assert not any(math.isnan(value) for value in values), name
        found[name] = len(values)
    return found


def check_labels(watched: Watched, asked: dict[str, str]) -> None:
    """Every value that a query asks for, or leaves out, is one that a series has; so is every grouping."""
    for name, query in asked.items():
        for matcher in queries.matchers_in(query):
            if matcher.label == "reason":
                alternatives = set(matcher.value.split("|"))
                assert alternatives <= set(ErrorReason), f"{name}: {matcher.selector}"
            else:
                found = watched.values(f"last_over_time({matcher.selector}[10m])")
                assert found, f"{name}: nothing has {matcher.selector}"
        read = queries.metrics_in(query)
        known = {label for metric in read for label in watched.ask("labels", **{"match[]": metric})}
        assert queries.labels_grouped_by(query) <= known, name


def rules_in(watched: Watched, health: str) -> list[str]:
    """The names of the rules that Prometheus evaluates so."""
    groups = watched.ask("rules")["groups"]
    return sorted(rule["name"] for group in groups for rule in group["rules"] if rule["health"] == health)


def test_every_query_finds_its_metrics_in_a_live_prometheus(watched: Watched, tmp_path: Path) -> None:
    scaled = {name: query for name, (query, _) in queries.autoscalers(tmp_path / "overlay").items()}
    asked = {**scaled, "adapter": queries.adapter(), **queries.panels(), **queries.alerts()}
    before = check_no_nan(watched, asked)
    assert all(before[name] == 1 for name in scaled), "each gives one number, before the first call too"

    bring_about_everything(watched)
    wait_for(lambda: len(watched.values('atelier_backend_failures_total{stage="restorer"}')) == 1, 30)
    names = set(watched.ask("label/__name__/values"))
    for name, query in asked.items():
        read = queries.metrics_in(query)
        assert read, name
        assert read <= names, f"{name}: nothing exports {read - names}"
    check_labels(watched, asked)
    after = check_no_nan(watched, asked)
    assert all(after[name] == 1 for name in scaled if "gateway" in name or "generator" in name)
    wait_for(lambda: rules_in(watched, "unknown") == [], 30)
    assert rules_in(watched, "ok") == sorted(queries.alerts())


def test_the_startup_window_is_twice_the_measured_load(watched: Watched) -> None:
    for stage in STAGES:
        [load_s] = watched.values(f'last_over_time(atelier_model_load_seconds{{job="atelier-{stage}"}}[5m])')
        probe = of_kind(overlay("cpu-demo"), "Deployment")[f"atelier-{stage}"]["spec"]["template"]["spec"][
            "containers"
        ][0]["startupProbe"]
        window_s = probe["periodSeconds"] * probe["failureThreshold"]
        assert 0 < load_s <= watched.start_seconds[stage]
        print(
            f"{stage}: loaded in {load_s:.1f} s, ready {watched.start_seconds[stage]:.1f} s after its start"
        )
        assert window_s >= 2 * watched.start_seconds[stage]
