"""What `bench.fuzz` sends as files, and what it calls growth."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.chaos.stack import Usage
from bench.fuzz_growth import Look, grown
from bench.fuzz_requests import TEXT_FILE, make_served

PICTURE = b"a picture"
EXAMPLES = 300
_KIB = 1024


def looks(*memory_mib: float, files: tuple[int, ...] = (), threads: tuple[int, ...] = ()) -> list[Look]:
    """What a service held at each look."""
    return [
        {"gateway": {1: Usage((files or [9] * 9)[n], (threads or [9] * 9)[n], mib * _KIB)}}
        for n, mib in enumerate(memory_mib)
    ]


def test_the_warm_up_does_not_count() -> None:
    assert list(grown(looks(100, 500, 500, 501, 500), EXAMPLES)) == []
    assert list(grown(looks(500, 100, 100, 101, 100), EXAMPLES)) == []


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (looks(500, 100, 120, 141, 162), "memory_mib"),
        (looks(100, 100, 100, 100, 100, files=(30, 9, 14, 20, 25)), "open_files"),
        (looks(100, 100, 100, 100, 100, threads=(30, 9, 11, 13, 15)), "threads"),
    ],
)
def test_what_rises_from_look_to_look_is_a_finding(held: list[Look], kind: str) -> None:
    [(name, figures)] = grown(held, EXAMPLES)
    assert name == f"gateway: {kind} grows" and "allowed: " in figures


def test_each_example_may_leave_10_kib_behind() -> None:
    rising = looks(100, 100, 110, 120, 130)
    assert list(grown(rising, 600)) == []  # 17.6 MiB for 1,800 of them, and 16 MiB
    assert [name for name, _ in grown(rising, 300)] == ["gateway: memory_mib grows"]


def test_a_worker_that_starts_after_the_warm_up_is_no_growth() -> None:
    held = looks(100, 100, 100, 100, 100)
    for look in held[2:]:
        look["gateway"][2] = Usage(20, 10, 40 * _KIB)
    assert list(grown(held, EXAMPLES)) == []


def test_files_of_a_form_are_pictures_in_a_request_that_is_to_be_served() -> None:
    body = {"image": TEXT_FILE, "images": [TEXT_FILE, TEXT_FILE], "prompt": "a cat", "width": 2048}
    case = SimpleNamespace(path="/v1/images/edits", path_parameters={}, body=body)
    make_served(case, [], PICTURE)
    assert case.body == {
        "image": PICTURE,
        "images": [PICTURE] * 2,
        "prompt": "a cat",
        "width": 256,
    }
