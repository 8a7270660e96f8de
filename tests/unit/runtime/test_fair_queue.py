"""Turns of callers, and whose place is given up in a full queue."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier_runtime.device_job import Together
from atelier_runtime.errors import AtelierError
from atelier_runtime.fair_queue import FairQueue
from atelier_runtime.places import Place, Places
from atelier_runtime.queue_time import take_call

CALLERS = st.sampled_from("abcd")


def queue_of(items: str) -> FairQueue[str]:
    """Items such as "a1 a2 b1", which name their callers."""
    queue: FairQueue[str] = FairQueue()
    for item in items.split():
        queue.append(item[0], item)
    return queue


def drained(queue: FairQueue[str]) -> list[str]:
    return [item for _ in range(len(queue)) if (item := queue.take()) is not None]


def test_callers_take_turns_and_one_callers_items_keep_their_order() -> None:
    queue = queue_of("a1 a2 a3 b1 c1 b2")
    assert drained(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert queue.take() is None


def test_who_comes_back_waits_until_all_others_have_had_their_turn() -> None:
    queue = queue_of("a1 a2 b1")
    assert [queue.take(), queue.take()] == ["a1", "b1"]
    queue.append("b", "b2")
    assert drained(queue) == ["a2", "b2"]


def test_who_comes_for_the_first_time_comes_before_those_that_come_again_later() -> None:
    queue = queue_of("a1 b1 c1 d1")
    assert drained(queue) == ["a1", "b1", "c1", "d1"]
    for item in ("e1", "a2", "b2"):
        queue.append(item[0], item)
    assert drained(queue) == ["e1", "a2", "b2"]


def test_one_that_lets_many_newcomers_pass_has_its_turn_after_one_round() -> None:
    queue = queue_of("a1 b1")
    assert queue.take() == "a1"
    queue.append("a", "a2")  # three wait each time: a round is three turns
    taken = []
    for name in "cdefgh":
        queue.append(name, f"{name}1")
        taken.append(queue.take())
    assert taken[:5] == ["b1", "c1", "d1", "e1", "a2"]


@given(st.lists(st.sampled_from("abcdefgh") | st.none(), max_size=80))
def test_who_has_had_no_turn_in_the_last_round_is_served_first_come_first_served(
    steps: list[str | None],
) -> None:
    """None: one is taken, else a caller's item comes. Only those that came before it are taken before it."""
    queue: FairQueue[str] = FairQueue()
    came: dict[str, list[int]] = {}  # of each caller that waits
    late: set[str] = set()  # callers that had had no turn for a round when they came
    turns: dict[str, int] = {}
    taken = 0
    for number, step in enumerate(steps):
        if step is not None:
            queue.append(step, step)
            if step not in came and taken - turns.get(step, -100) >= 8:
                late.add(step)
            came.setdefault(step, []).append(number)
        elif (name := queue.take()) is not None:
            taken += 1
            turns[name] = taken
            [first, *rest] = came.pop(name)
            if rest:
                came[name] = rest
            late.discard(name)
            assert all(first < came[each][0] for each in late)


def test_what_does_not_fit_keeps_its_turn() -> None:
    queue = queue_of("a1 b1 c1 b2")
    assert queue.take(lambda item: item.startswith("b")) == "b1"
    assert drained(queue) == ["a1", "c1", "b2"]


@given(st.lists(CALLERS | st.none(), max_size=60))
def test_whoever_waits_is_served_once_in_as_many_turns_as_callers_wait(steps: list[str | None]) -> None:
    """None: one is taken, else a caller's item comes."""
    queue: FairQueue[str] = FairQueue()
    since: dict[str, int] = {}  # turns of others since a caller that waits was served or came
    numbers: Counter[str] = Counter()
    served: Counter[str] = Counter()
    for step in steps:
        if step is not None:
            numbers[step] += 1
            queue.append(step, f"{step}{numbers[step]}")
            since.setdefault(step, 0)
        elif (item := queue.take()) is None:
            assert not since, "nobody is left waiting"
        else:
            name = item[0]
            served[name] += 1
            assert item == f"{name}{served[name]}", "first come, first served"
            del since[name]
            since = {each: turns + 1 for each, turns in since.items()}
            if numbers[name] > served[name]:
                since[name] = 0
            assert all(turns < 4 for turns in since.values())


@dataclass(eq=False)
class Item:
    """What waits in a queue of the device."""

    caller: str
    work: object = None


def share(caller: str, key: str = "key", limit: int = 3) -> Item:
    return Item(caller, Together(key, limit, lambda jobs: None, None))


def test_no_caller_fills_a_batch_while_others_wait() -> None:
    queue: FairQueue[Item] = FairQueue()
    for name in "aaaabc":
        queue.append(name, share(name))
    assert [[item.caller for item in take_call(queue)] for _ in range(3)] == [list("abc"), list("aaa"), []]


def test_a_batch_takes_only_what_runs_together_and_the_others_keep_their_turn() -> None:
    queue: FairQueue[Item] = FairQueue()
    items = [share("a"), Item("b"), share("c", "other"), share("b")]
    for item in items:
        queue.append(item.caller, item)
    assert take_call(queue) == [items[0], items[3]]
    assert take_call(queue) == [items[2]]
    assert take_call(queue) == [items[1]]


@dataclass
class House:
    """Places for five, with a clock that the test moves."""

    now: float = 0.0
    ended: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = Places(lambda: self.now)

    def ask(self, caller: str, *, begun: bool = False, retry_after_s: float = 1.0) -> Place | None:
        """Ask for a place as the device worker does; None: refused."""
        self.now += 1e-3
        if len(self.places) >= 5:
            given_up = self.places.to_give_up(caller)
            if given_up is None:
                self.places.was_refused(caller, retry_after_s)
                return None
            assert given_up.refuse is not None
            given_up.refuse(AtelierError())
            self.places.leave(given_up)
            self.places.was_refused(given_up.caller, retry_after_s, given_up.since)
            self.ended.append(given_up)
        return self.places.take(caller, None if begun else lambda error: None)


@pytest.fixture
def house() -> House:
    return House()


def test_the_newest_request_of_who_has_most_gives_up_its_place(house: House) -> None:
    places = [house.ask("a") for _ in range(5)]
    assert house.ask("b") is not None
    assert house.ended == [places[4]]
    assert house.ask("b") is not None and house.ended == [places[4], places[3]]
    assert house.ask("b") is None, "three and two: another would only turn it round"
    assert house.ask("a") is None


def test_a_request_that_has_begun_keeps_its_place(house: House) -> None:
    for _ in range(5):
        house.ask("a", begun=True)
    assert house.ask("b") is None and not house.ended


def test_who_was_refused_comes_before_those_that_came_later(house: House) -> None:
    first = [house.ask(name) for name in "abcde"]
    assert house.ask("f") is None and house.ask("g") is None
    assert first[0] is not None
    house.places.leave(first[0])
    again = house.ask("a")  # at once, before those who wait as they were told
    assert again is not None
    assert house.ask("f") is not None and house.ended == [again]
    assert house.ask("g") is None, "all others had asked before"
    assert first[1] is not None
    house.places.leave(first[1])
    assert house.ask("g") is not None


def test_who_does_not_come_again_in_time_has_lost_its_turn(house: House) -> None:
    for name in "abcd":
        house.ask(name)
    last = house.ask("e")
    house.ask("f", retry_after_s=1)
    assert last is not None
    house.places.leave(last)
    house.ask("e")
    house.now += 60
    assert house.ask("f") is None and not house.ended


@given(st.lists(st.tuples(CALLERS, st.sampled_from(["ask", "begin", "leave"])), max_size=80))
def test_no_place_stays_free_and_none_is_taken_twice(steps: list[tuple[str, str]]) -> None:
    house = House()
    held: list[Place] = []
    for name, what in steps:
        place = None
        own = [place for place in held if place.caller == name]
        if what == "ask":
            was_full = len(house.places) == 5
            place = house.ask(name)
            assert place is not None or was_full, "nobody is refused while a place is free"
            held = [each for each in held if each not in house.ended]
            if place is not None:
                held.append(place)
        elif own and what == "begin":
            own[0].refuse = None
        elif own:
            house.places.leave(own[0])
            held.remove(own[0])
        assert len(house.places) == len(held) <= 5
        counts = Counter(place.caller for place in held)
        if what == "ask" and place is None:
            waiting = {each.caller for each in held if each.refuse is not None}
            assert all(counts[each] <= counts[name] + 1 for each in waiting)


def test_who_comes_back_at_once_with_one_item_has_as_many_turns_as_who_has_many() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(20):
        queue.append("many", f"many {number}")
    queue.append("one", "one")
    turns = []
    for _ in range(40):
        item = queue.take()
        assert item is not None
        turns.append(item.split()[0])
        if len(turns) > 1 and turns[-2] == "one":  # it is back while the next one is at work
            queue.append("one", "one")
        if turns[-1] == "many":
            queue.append("many", f"many {len(turns) + 20}")
    assert abs(turns.count("one") - turns.count("many")) <= 1


def test_callers_that_have_gone_are_forgotten() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(5000):
        queue.append(f"caller {number}", "item")
        queue.take()
    assert len(queue._last_turns) <= 1001
