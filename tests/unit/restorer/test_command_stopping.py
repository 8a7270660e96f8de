"""Signals that end a command: the first lets it clean up, further ones do not disturb that."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from atelier_restorer.commands.stopping import Terminated, cancelled_by_signals, terminated_by_signals

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Whoever runs the tests may have ignored one of them, as nohup does."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_outside_the_work_raises_at_once(number: signal.Signals) -> None:
    with pytest.raises(Terminated, match=number.name), terminated_by_signals():
        signal.raise_signal(number)
    signal.raise_signal(number)  # nor does a second one disturb the end of the process


def test_handlers_are_restored_where_no_signal_came() -> None:
    with terminated_by_signals():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_DFL] * 2


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_lets_the_work_clean_up(number: signal.Signals) -> None:
    steps = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    with pytest.raises(Terminated, match=number.name), terminated_by_signals():
        asyncio.run(cancelled_by_signals(work()))
    assert steps == ["cleaned up"]


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_does_not_disturb_the_cleaning_up(second: signal.Signals) -> None:
    steps = []

    async def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            signal.raise_signal(second)
            await asyncio.sleep(0)
            steps.append("cleaned up")

    with pytest.raises(Terminated, match="SIGTERM"), terminated_by_signals():
        try:
            asyncio.run(cancelled_by_signals(work()))
        finally:
            signal.raise_signal(second)
    assert steps == ["cleaned up"]


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with terminated_by_signals():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_cancellation_without_a_signal_stays_one() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError), terminated_by_signals():
        asyncio.run(cancelled_by_signals(work()))
