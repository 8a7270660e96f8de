"""A real Prometheus that scrapes the pods which the PodMonitors select, and evaluates the rules."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import yaml

from tests.k8s.manifests import Manifest, of_kind
from tests.k8s.runner.pods import WITH_US, Pod
from tests.processes import program


class Prometheus:
    """The server, from `start` to `close`. Its targets follow `discover`."""

    def __init__(self, manifests: list[Manifest], address: str, port: int, folder: Path) -> None:
        self.url = f"http://{address}:{port}"
        self._folder = folder / "prometheus"
        self._folder.mkdir()
        self._monitors = of_kind(manifests, "PodMonitor")
        rules = of_kind(manifests, "PrometheusRule").values()
        groups = [group for rule in rules for group in rule["spec"]["groups"]]
        self._write("rules.yaml", {"groups": groups})
        jobs = [self._job(name) for name in self._monitors]
        self._write("prometheus.yaml", {"rule_files": ["rules.yaml"], "scrape_configs": jobs})
        self._command = [
            *WITH_US,
            program("prometheus"),
            f"--config.file={self._folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={address}:{port}",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with what it has stored."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def close(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def discover(self, pods: list[Pod]) -> None:
        """Let it scrape these pods from now on, with the labels that the operator gives them."""
        for name, monitor in self._monitors.items():
            spec = monitor["spec"]
            [endpoint] = spec["podMetricsEndpoints"]
            selected = spec["selector"]["matchLabels"].items()
            found = [pod for pod in pods if selected <= pod.workload.labels.items()]
            copied = [spec["jobLabel"], *spec.get("podTargetLabels", [])]
            targets = []
            for pod in found:
                given = pod.workload.labels
                labels = {_label(key): given[key] for key in copied if key in given}
                labels["job"] = labels.pop(_label(spec["jobLabel"]))
                labels |= {"namespace": monitor["metadata"]["namespace"], "pod": pod.name}
                targets.append(
                    {"targets": [f"{pod.address}:{pod.ports[endpoint['port']]}"], "labels": labels}
                )
            self._write(f"{name}.json", targets)

    async def value(self, query: str) -> float | None:
        """The sum that a query gives; None: nothing. Raises httpx.HTTPError."""
        async with httpx.AsyncClient(base_url=self.url, timeout=10, trust_env=False) as client:
            response = await client.get("/api/v1/query", params={"query": query})
            response.raise_for_status()
        result = response.json()["data"]["result"]
        assert len(result) <= 1, f"several series: {query}"
        return float(result[0]["value"][1]) if result else None

    def _job(self, name: str) -> dict[str, object]:
        [endpoint] = self._monitors[name]["spec"]["podMetricsEndpoints"]
        discovery = {"files": [f"{name}.json"], "refresh_interval": "5s"}
        self._write(f"{name}.json", [])
        return {
            "job_name": name,
            "metrics_path": endpoint["path"],
            "scrape_interval": endpoint["interval"],
            "file_sd_configs": [discovery],
        }

    def _write(self, name: str, content: object) -> None:
        """Write a file whole: Prometheus may be reading it."""
        text = json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content)
        path = self._folder / name
        if not path.exists() or path.read_text() != text:
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").replace(path)


def _label(name: str) -> str:
    """A Kubernetes label's name as Prometheus writes it."""
    return "".join(each if each.isalnum() else "_" for each in name)
