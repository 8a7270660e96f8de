"""Reads the gateway's /metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.contract.stack import Stack

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(stack: Stack) -> Samples:
    """Return every sample by its name and labels."""
    response = stack.client.get("/metrics")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def metric(stack: Stack, name: str, **labels: str) -> float:
    """Return the present value of one sample, 0 if there is none."""
    return value(scrape(stack), name, **labels)


def pending(stack: Stack, backend: str) -> float:
    return metric(stack, "atelier_backend_pending", backend=backend)


def requests(samples: Samples, method: str, code: str) -> float:
    return value(samples, "atelier_request_duration_seconds_count", method=method, code=code)
