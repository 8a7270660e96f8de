"""What `bench.chaos` accepts from a client of a service that was killed."""

from __future__ import annotations

import pytest

from bench.chaos.clients import HUNG, NOT_JSON, Answer
from bench.chaos.crashes import is_explained
from bench.load import LOST

KILLED, READY = 100.0, 110.0
BEFORE, MEANWHILE, AFTER = 99.5, 105.0, 110.5


def answer(status: int, begun: float, path: str = "/generate", detail: str = "") -> Answer:
    """An answer that is not whole, a second later."""
    return Answer(path, status, begun, 1.0, detail=detail)


@pytest.mark.parametrize("name", ["gateway", "generator", "restorer"])
def test_whole_answers_and_refusals_that_say_when_to_come_again_are_explained(name: str) -> None:
    for begun in (BEFORE, MEANWHILE, AFTER):
        whole = Answer("/restore", 200, begun, 1.0, is_whole=True)
        refusal = Answer("/restore", 503, begun, 1.0, says_when=True)
        assert is_explained(whole, name, KILLED, READY)
        assert is_explained(refusal, name, KILLED, READY)
        assert is_explained(answer(503, begun), name, KILLED, READY) is (begun == BEFORE)


def test_what_was_in_flight_may_fail_but_not_hang() -> None:
    for status in (LOST, 500, 502):
        assert is_explained(answer(status, BEFORE), "generator", KILLED, READY)
        assert not is_explained(answer(status, KILLED - 2), "generator", KILLED, READY)
        assert not is_explained(answer(status, MEANWHILE), "generator", KILLED, READY)
    assert not is_explained(answer(HUNG, BEFORE), "generator", KILLED, READY)


@pytest.mark.parametrize(
    ("begun", "name", "explained"),
    [
        (MEANWHILE, "restorer", True),
        (AFTER, "restorer", False),
        (KILLED - 2, "restorer", False),
        (MEANWHILE, "generator", False),
        (MEANWHILE, "gateway", False),
    ],
)
def test_drawings_come_unrestored_only_while_the_restorer_is_away(
    begun: float, name: str, explained: bool
) -> None:
    unrestored = answer(200, begun, detail="restorer_unavailable")
    assert is_explained(unrestored, name, KILLED, READY) is explained
    assert not is_explained(answer(200, begun, detail=NOT_JSON), name, KILLED, READY)
    assert not is_explained(answer(200, begun, path="/restore", detail="x"), name, KILLED, READY)


@pytest.mark.parametrize(
    ("begun", "name", "explained"),
    [
        (MEANWHILE, "gateway", True),
        (AFTER, "gateway", False),
        (KILLED - 2, "gateway", False),
        (MEANWHILE, "restorer", False),
    ],
)
def test_connections_are_lost_only_while_the_gateway_is_away(
    begun: float, name: str, explained: bool
) -> None:
    assert is_explained(answer(LOST, begun), name, KILLED, READY) is explained
