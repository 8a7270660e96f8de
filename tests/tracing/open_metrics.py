"""Reads what Prometheus is sent where it asks for OpenMetrics: with exemplars."""

from __future__ import annotations

from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser
from prometheus_client.samples import Sample

ACCEPT = {"Accept": "application/openmetrics-text; version=1.0.0"}

_families_of: Any = parser.text_string_to_metric_families  # it publishes no types


def samples_of(text: str, **labels: str) -> list[Sample]:
    """Every sample with these labels, and perhaps more."""
    families: list[Metric] = list(_families_of(text))
    samples = [sample for family in families for sample in family.samples]
    return [sample for sample in samples if labels.items() <= sample.labels.items()]
