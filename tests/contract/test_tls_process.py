"""The gateway as its own process, TLS at every connection, while all certificates are replaced."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import httpx

from tests.contract.services import eventually
from tests.contract.tls_stack import Certificates, SecureServices, presented
from tests.processes import free_port, process

BODY = {"prompt": "a red apple", "width": 256, "height": 256}


def test_certificates_of_all_processes_are_replaced_under_load(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    port, metrics_port = free_port(), free_port()
    context = certificates.trust(client=True)
    statuses: Counter[int | str] = Counter()
    is_enough = threading.Event()

    def keep_asking() -> None:
        while not is_enough.is_set():
            with httpx.Client(
                base_url=f"https://localhost:{port}", verify=context, trust_env=False
            ) as client:
                try:
                    answer = client.post("/generate", json=BODY, timeout=60)
                except httpx.TransportError as error:
                    statuses[repr(error)] += 1
                else:
                    is_whole = answer.status_code == 200 and answer.json()["face_restoration_applied"]
                    statuses[200 if is_whole else f"{answer.status_code} {answer.text[:200]}"] += 1

    def probe(path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{metrics_port}{path}", trust_env=False)

    def is_ready() -> bool:
        try:
            return probe("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    with SecureServices(certificates) as services:
        settings = {
            "PORT": port,
            "METRICS_PORT": metrics_port,
            "GENERATOR": f"localhost:{services.generator_port}",
            "RESTORER": f"localhost:{services.restorer_port}",
            "TLS_CA": certificates.ca,
            **{name.upper(): value for name, value in certificates.gateway.items()},
        }
        with process("gateway", tmp_path / "gateway.log", **settings):
            eventually(is_ready, within_s=60)
            assert probe("/livez").status_code == 200 and "atelier_" in probe("/metrics").text
            threads = [threading.Thread(target=keep_asking) for _ in range(3)]
            for thread in threads:
                thread.start()
            for _ in range(2):
                certificates.renew()
                eventually(
                    lambda: (
                        presented(port, certificates.trust(client=True)) == certificates.serials["gateway"]
                        and presented(services.generator_port, certificates.trust(client=True), alpn="h2")
                        == certificates.serials["services"]
                    )
                )
                enough = statuses[200] + 20
                while statuses[200] < enough and set(statuses) <= {200}:
                    is_enough.wait(0.05)
            is_enough.set()
            for thread in threads:
                thread.join()
            assert set(statuses) == {200}
            services.stop_generator()
            eventually(lambda: probe("/readyz").status_code == 503)
            assert probe("/readyz").text == "The generator cannot be reached.\n"
            assert probe("/livez").status_code == 200
