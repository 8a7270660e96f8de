"""Restorers as processes on loopback addresses of their own, behind a name that dnsmasq resolves."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from tests.processes import free_port, process, program, wait_for

NAME = "restorer.test"


def photo(side: int = 256) -> bytes:
    """A PNG of noise; the tests' small detector finds faces everywhere in it."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


class Dns:
    """A real DNS server whose records a test changes, as Kubernetes does when pods start and stop."""

    def __init__(self, folder: Path) -> None:
        self._hosts = folder / "hosts"
        self._addresses: list[str] = []
        self._hosts.write_text("")
        self.port = free_port()
        self._process = subprocess.Popen(
            [
                *(
                    program("dnsmasq"),
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--no-resolv",
                    "--no-hosts",
                ),
                *(f"--addn-hosts={self._hosts}", "--listen-address=127.0.0.1", "--bind-interfaces"),
                *(f"--port={self.port}", "--pid-file=", "--user="),
            ],
            stdout=subprocess.DEVNULL,
        )

    def add(self, address: str) -> None:
        self._addresses.append(address)
        self._write()

    def remove(self, address: str) -> None:
        self._addresses.remove(address)
        self._write()

    def _write(self) -> None:
        self._hosts.write_text("".join(f"{address} {NAME}\n" for address in self._addresses))
        self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


class Replica:
    """One restorer, which is stopped and started as in a rolling update."""

    def __init__(
        self,
        address: str,
        port: int,
        metrics_port: int,
        model_set: Path,
        folder: Path,
        settings: dict[str, object],
    ) -> None:
        self.address, self.port = address, port
        self._metrics_port, self._model_set = metrics_port, model_set
        self._folder, self._settings = folder, {"QUEUE_CAPACITY": 64} | settings
        self._starts = 0
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        self._starts += 1
        self.log = self._folder / f"{self.address}-{self._starts}.log"
        self.child = self._running.enter_context(
            process(
                "restorer",
                self.log,
                HOST=self.address,
                PORT=self.port,
                METRICS_PORT=self._metrics_port,
                MODEL_SET=self._model_set,
                DEVICE="cpu",
                CPU_THREADS=1,
                **self._settings,
            )
        )
        wait_for(lambda: self.child.poll() is not None or '"message": "ready"' in self.log.read_text())
        assert self.child.poll() is None, self.log.read_text()

    def calls(self, method: str, code: str = "") -> int:
        """Calls of a method that have ended since the start, with one status code or any."""
        text = httpx.get(f"http://{self.address}:{self._metrics_port}/metrics", timeout=10).text
        name = "atelier_request_duration_seconds_count{"
        labels = (f'method="{method}"', f'code="{code}' if code else "")
        rows = [
            line
            for line in text.splitlines()
            if line.startswith(name) and all(label in line for label in labels)
        ]
        return sum(int(float(row.rsplit(" ", 1)[1])) for row in rows)

    def ask_to_stop(self) -> None:
        self.child.send_signal(signal.SIGTERM)

    def close(self) -> None:
        self._running.close()


class ReplicaSet:
    """The name, its replicas, and a gateway that knows only the name."""

    def __init__(self, folder: Path, model_set: Path) -> None:
        self._folder, self._model_set = folder, model_set
        self.port, self._metrics_port, self._gateway_port = free_port(), free_port(), free_port()
        self.dns = Dns(folder)
        self.replicas: list[Replica] = []
        self._running = contextlib.ExitStack()
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{self._gateway_port}", timeout=120, trust_env=False
        )
        self._photo = photo()

    def add(self, **settings: object) -> Replica:
        address = f"127.0.0.{11 + len(self.replicas)}"
        replica = Replica(address, self.port, self._metrics_port, self._model_set, self._folder, settings)
        self.replicas.append(replica)
        replica.start()
        self.dns.add(address)
        return replica

    def start_gateway(self, **settings: object) -> None:
        self._running.enter_context(
            process(
                "gateway",
                self._folder / "gateway.log",
                PORT=self._gateway_port,
                GENERATOR=f"127.0.0.1:{free_port()}",
                RESTORER=f"dns://127.0.0.1:{self.dns.port}/{NAME}:{self.port}",
                **settings,
            )
        )

        def is_alive() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return self._client.get("/livez").status_code == 200
            return False

        wait_for(is_alive, 60)

    def call(self, path: str) -> httpx.Response:
        fields = {"max_faces": "1"} if path == "/restore" else {}
        return self._client.post(path, files={"image": ("a.png", self._photo)}, data=fields)

    @contextmanager
    def steady_calls(self, path: str, pause_s: float) -> Iterator[list[httpx.Response]]:
        """Call continuously from two clients; yields the responses so far."""
        responses: list[httpx.Response] = []
        stopped = threading.Event()

        def client() -> None:
            while not stopped.is_set():
                responses.append(self.call(path))
                stopped.wait(pause_s)

        clients = [threading.Thread(target=client) for _ in range(2)]
        for thread in clients:
            thread.start()
        try:
            yield responses
        finally:
            stopped.set()
            for thread in clients:
                thread.join()

    def close(self) -> None:
        self._client.close()
        self._running.close()
        for replica in self.replicas:
            replica.close()
        self.dns.close()
