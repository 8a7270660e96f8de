"""One gateway with scripted services for all contract tests; each test begins with the usual scripts."""

from collections.abc import Iterator

import pytest

from tests.contract.stack import Stack


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


@pytest.fixture
def stoppable_stack(module_stack: Stack) -> Stack:
    module_stack.reset()
    return module_stack
