"""Gateways with scripted services for all contract tests; each test begins with the usual scripts."""

from collections.abc import Iterator

import pytest

from tests.contract.stack import Stack

MAX_CONNECTIONS = 8
"""Of the strict stack."""


@pytest.fixture(scope="session")
def shared_stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    shared_stack.reset()
    return shared_stack


@pytest.fixture(scope="module")
def module_stack() -> Iterator[Stack]:
    """For tests that stop services. The gateway hardly waits for replicas: there are none to come."""
    with Stack(backend_wait_seconds=0.2) as stack:
        yield stack


@pytest.fixture(scope="module")
def strict_stack() -> Iterator[Stack]:
    """A gateway that waits a second for what it waits many for."""
    with Stack(header_seconds=1, stall_seconds=1, max_connections=MAX_CONNECTIONS) as stack:
        yield stack


@pytest.fixture
def strict(strict_stack: Stack) -> Iterator[Stack]:
    """For tests of slow clients and of many of them. What a test holds, it need not release."""
    yield strict_stack
    strict_stack.reset()


@pytest.fixture
def stoppable_stack(module_stack: Stack) -> Stack:
    module_stack.reset()
    return module_stack
