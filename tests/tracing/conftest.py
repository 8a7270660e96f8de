"""A receiver of OTLP for the tests of a module, to which this process delivers its spans."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tracing.otlp_receiver import Receiver, receiving, tracing_to


@pytest.fixture(scope="module")
def module_receiver() -> Iterator[Receiver]:
    with receiving() as receiver, tracing_to(receiver.endpoint):
        yield receiver


@pytest.fixture
def receiver(module_receiver: Receiver) -> Receiver:
    module_receiver.clear()
    return module_receiver
