"""What components/tracing adds: variables of every process that they read, whatever else an overlay has."""

from __future__ import annotations

import pytest

from atelier_runtime import tracing
from atelier_runtime.tracing_setup import begin_tracing, end_tracing
from tests.k8s.manifests import NAMES, Manifest, Workload, combined, of_kind

DEPLOYMENTS = [
    pytest.param((), NAMES, id="alone"),
    pytest.param(("network-policies", "jobs-postgres"), NAMES, id="with jobs"),
    pytest.param(("keda", "scale-to-zero"), NAMES, id="to zero"),
    pytest.param(("network-policies", "restores-only"), ("gateway", "restorer"), id="without a generator"),
]


def variables(rendered: list[Manifest], name: str) -> dict[str, str]:
    environment = Workload("", name, rendered).environment
    return {name: value for name, value in environment.items() if name.startswith("OTEL_")}


@pytest.mark.parametrize(("components", "bases"), DEPLOYMENTS)
def test_every_process_traces(
    components: tuple[str, ...], bases: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = combined(*components, "tracing", bases=bases)
    without = combined(*components, bases=bases)
    for name in bases:
        read = variables(rendered, name)
        own = Workload("", name, rendered).environment
        assert own.items() - read.items() == Workload("", name, without).environment.items()
        for variable, value in read.items():
            monkeypatch.setenv(variable, value)
        begin_tracing(name)
        with tracing.server_span("kept", {"traceparent": f"00-{'1' * 32}-{'1' * 16}-01"}) as span:
            assert span is not None and span.is_sampled, "what a client has decided"
        end_tracing(0)


def test_without_network_policies_it_brings_none() -> None:
    """One that selects pods takes from them whatever it does not allow."""
    assert not of_kind(combined("tracing"), "NetworkPolicy")
