"""Likeness of a face's versions, and which of them the guard lets through."""

from __future__ import annotations

import numpy as np
import pytest

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.faces import Candidate
from atelier_restorer.identity import OnnxIdentifier
from atelier_restorer.likeness import LADDER_STEPS, Likeness, likeness_warnings
from atelier_restorer.request import Face
from atelier_runtime.images import RgbArray
from atelier_runtime.outcomes import SkipReason, WarningCode
from tests.tiny_identity import mean_color_network

FACE = Face(0, (0.0, 0.0, 9.0, 9.0), ((0.0, 0.0),) * 5, 1.0)
RED, REDDISH, BLUE = (220, 30, 30), (220, 110, 30), (30, 30, 220)
Color = tuple[int, int, int]


def plain(color: Color) -> RgbArray:
    return np.broadcast_to(np.array(color, np.uint8), (CROP_SIZE, CROP_SIZE, 3)).copy()


def likeness(guard: float | None = None, min_certainty: float = 0.0, has_ladder: bool = True) -> Likeness:
    return Likeness(OnnxIdentifier(mean_color_network()), guard, min_certainty, has_ladder)


def versions(before: Color, *after: Color | SkipReason) -> list[Candidate]:
    """Return a face's versions, one for each color, at evenly spaced fidelities up to 1."""
    rows = []
    for fidelity, color in zip(np.linspace(0.4, 1, len(after)), after, strict=True):
        row = Candidate(FACE, None, float(fidelity), 1.0, crop=plain(before))
        if isinstance(color, SkipReason):
            row.skip(color)
        else:
            row.restored = plain(color)
        rows.append(row)
    return rows


@pytest.mark.parametrize("fidelity", [0.0, 0.6, 0.97])
def test_the_ladder_goes_evenly_from_the_fidelity_asked_for_to_1(fidelity: float) -> None:
    ladder = likeness(guard=0.5).fidelities(fidelity)
    assert len(ladder) == LADDER_STEPS and ladder[0] == fidelity and ladder[-1] == 1.0
    np.testing.assert_allclose(np.diff(ladder), (1 - fidelity) / (LADDER_STEPS - 1))


def test_without_a_guard_or_at_1_there_is_nothing_to_try() -> None:
    assert likeness().fidelities(0.3) == [0.3]
    assert likeness(guard=0.5).fidelities(1.0) == [1.0]


def test_every_version_of_every_face_is_measured() -> None:
    first, second = versions(RED, RED, BLUE), versions(BLUE, RED, SkipReason.NOT_FINITE)
    likeness().measure([first, second])
    assert [row.similarity for row in first] == [pytest.approx(1), pytest.approx(0, abs=0.5)]
    assert second[0].similarity == pytest.approx(first[1].similarity) and second[1].similarity is None
    assert not any(row.unknown or row.fidelity_requested for row in first + second)


def test_the_guard_takes_the_lowest_fidelity_that_keeps_the_likeness() -> None:
    rows = versions(RED, BLUE, REDDISH, RED)
    chosen = likeness(guard=0.8).choose(rows)
    assert chosen is rows[1] and chosen.reason is None and chosen.restored is not None
    assert chosen.fidelity_requested == rows[0].fidelity and chosen.similarity is not None
    assert chosen.similarity >= 0.8 > (rows[0].similarity or 0)
    assert rows[2].similarity is None, "what comes after is not measured"


def test_a_good_restoration_keeps_the_fidelity_asked_for() -> None:
    rows = versions(RED, RED, BLUE)
    assert likeness(guard=0.8).choose(rows) is rows[0] and rows[0].fidelity_requested is None


def test_a_face_that_is_somebody_else_at_any_fidelity_is_left_as_it_was() -> None:
    rows = versions(RED, (0, 255, 255), BLUE, (0, 255, 200))
    chosen = likeness(guard=0.8).choose(rows)
    assert chosen.reason is SkipReason.IDENTITY_CHANGED and chosen.restored is None
    assert chosen is rows[1], "the one most alike is what is reported"


def test_without_a_fidelity_the_guard_lowers_the_visibility() -> None:
    asked = 0.8
    [row] = versions(RED, BLUE)
    row.visibility = asked
    guard = likeness(guard=0.9, has_ladder=False)
    [[chosen]] = guard.chosen([[row]])
    assert chosen.reason is None and chosen.restored is row.restored and chosen.visibility_requested == asked
    assert asked * (LADDER_STEPS - 1) / LADDER_STEPS >= chosen.visibility >= asked / LADDER_STEPS
    assert chosen.fidelity_requested is None and chosen.similarity is not None and chosen.similarity >= 0.9
    blend = chosen.visibility * np.array(BLUE) + (1 - chosen.visibility) * np.array(RED)
    embed = guard.identifier.embed
    expected = embed(plain(RED)).similarity(embed(plain((round(blend[0]), round(blend[1]), round(blend[2])))))
    assert chosen.similarity == pytest.approx(expected, abs=2e-3), "measured as it is pasted"
    higher, _, lower = (asked * (1 - number / LADDER_STEPS) for number in range(1, LADDER_STEPS))
    assert lower <= chosen.visibility <= higher


def test_without_a_fidelity_a_good_restoration_keeps_the_visibility_asked_for() -> None:
    [row] = versions(RED, REDDISH)
    [[chosen]] = likeness(guard=0.5, has_ladder=False).chosen([[row]])
    assert chosen is row and chosen.visibility == 1 and chosen.visibility_requested is None


def test_without_a_fidelity_a_face_that_is_somebody_else_is_left_as_it_was() -> None:
    [row] = versions((1, 1, 200), (250, 250, 0))
    [[chosen]] = likeness(guard=0.99, has_ladder=False).chosen([[row]])
    assert chosen.reason is SkipReason.IDENTITY_CHANGED and chosen.restored is None
    assert chosen.visibility == pytest.approx(1 / LADDER_STEPS), "the one most alike is what is reported"


def test_what_only_the_crops_will_show_is_measured_as_it_is() -> None:
    hidden, shown = versions(RED, BLUE, BLUE)
    hidden.visibility = 0.001
    likeness().measure([[hidden], [shown]])
    assert hidden.similarity == shown.similarity


@pytest.mark.parametrize("has_ladder", [True, False])
@pytest.mark.parametrize("scale", [1.0, float("nan")], ids=["somebody else", "cannot be measured"])
def test_a_face_that_pasting_will_not_show_is_not_the_guards(*, has_ladder: bool, scale: float) -> None:
    rows = versions((1, 1, 200), *[(250, 250, 0)] * (2 if has_ladder else 1))
    for row in rows:
        row.visibility = 0.001
    guard = Likeness(OnnxIdentifier(mean_color_network(scale)), 0.99, 0.0, has_ladder)
    [[chosen]] = guard.chosen([rows])
    assert chosen is rows[0] and chosen.reason is None and chosen.restored is not None
    assert (chosen.similarity is None) is (scale != 1) and chosen.fidelity_requested is None


def test_what_the_guard_did_not_let_through_can_be_seen() -> None:
    rows = versions(RED, (0, 255, 255), BLUE)
    chosen = likeness(guard=0.99).choose(rows)
    assert chosen.reason is SkipReason.IDENTITY_CHANGED and chosen.restored is None
    np.testing.assert_array_equal(chosen.rejected, plain((0, 255, 255) if chosen is rows[0] else BLUE))


def test_it_is_said_of_which_faces_the_likeness_was_not_measured() -> None:
    broken = Likeness(OnnxIdentifier(mean_color_network(float("nan"))), None, 0.0)
    rows = [versions(RED, BLUE), versions(RED, SkipReason.FAILED)]
    broken.measure(rows)
    [warning] = likeness_warnings(broken, rows)
    assert warning.code is WarningCode.IDENTITY_NOT_MEASURED and warning.message.endswith("measured: 0.")
    likeness().measure(good := [versions(RED, BLUE), versions(BLUE, SkipReason.FAILED)])
    likeness(min_certainty=0.05).measure(ruined := [versions(RED, BLUE)])
    assert likeness_warnings(likeness(), [*good, *ruined]) == [] == likeness_warnings(None, rows)


def test_a_version_that_failed_is_passed_over() -> None:
    rows = versions(RED, SkipReason.NOT_FINITE, RED)
    assert likeness(guard=0.8).choose(rows) is rows[1]
    failed = versions(RED, SkipReason.OUT_OF_MEMORY, SkipReason.OUT_OF_MEMORY)
    assert likeness(guard=0.8).choose(failed).reason is SkipReason.OUT_OF_MEMORY


def test_a_face_too_ruined_to_tell_is_restored_as_asked_and_says_so() -> None:
    rows = versions(RED, BLUE, RED)
    chosen = likeness(guard=0.8, min_certainty=0.05).choose(rows)
    assert chosen is rows[0] and chosen.unknown and chosen.similarity is None and chosen.restored is not None
    measured = versions(RED, BLUE)
    likeness(min_certainty=0.05).measure([measured])
    assert measured[0].unknown and measured[0].similarity is None


def test_the_guard_does_not_let_through_what_it_could_not_check() -> None:
    broken = Likeness(OnnxIdentifier(mean_color_network(float("nan"))), 0.5, 0.0)
    chosen = broken.choose(versions(RED, RED, RED))
    assert chosen.reason is SkipReason.FAILED and chosen.restored is None
    rows = versions(RED, RED)
    Likeness(broken.identifier, None, 0.0).measure([rows])
    assert rows[0].reason is None and rows[0].similarity is None and not rows[0].unknown
