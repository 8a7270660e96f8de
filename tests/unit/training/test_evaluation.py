"""The arithmetic of the evaluation: figures, matched faces, promises of prompts, answers of the judge."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import drawing
from atelier_restorer.request import Face
from drawing.palette import COLORS
from training.attributes import (
    ATTRIBUTES,
    FACE_ATTRIBUTES,
    IGNORED,
    SIDE,
    Judge,
    classify,
    draw_examples,
    head_view,
    labels_of,
    measure,
    merged,
    open_judge,
)
from training.data import draw_face
from training.figures import Figure, table
from training.loop import write_export
from training.options import Options, parse_options
from training.package_set import training_record
from training.prompts import (
    STANDARD_PORTRAITS,
    STANDARD_SCENES,
    portrait_prompts,
    read_expectation,
    scene_prompts,
)
from training.score_detector import Tally, iou, landmark_error, of_kinds, partly_hidden, turned
from training.score_prompts import Generated, describe, score_prompts
from training.score_restorer import Gain, count_kept
from training.showcase import SHEET, close_up, degraded_face, labeled


def found(true: drawing.FaceAnnotation, dx: float = 0.0) -> Face:
    left, top, right, bottom = true.box
    places = [(float(x) + dx, float(y)) for x, y in true.landmarks]
    return Face(index=0, box=(left + dx, top, right + dx, bottom), landmarks=tuple(places), confidence=0.9)


@pytest.mark.parametrize(
    ("figure", "measured", "target", "reached"),
    [
        (Figure.share("a", 98, 100, at_least=0.98), "98 of 100 (98.0%)", ">= 98%", True),
        (Figure.share("a", 97, 100, at_least=0.98), "97 of 100 (97.0%)", ">= 98%", False),
        (Figure.share("a", 1, 300, at_most=0.005), "1 of 300 (0.3%)", "<= 0.5%", True),
        (Figure.share("a", 2, 300, at_most=0.005), "2 of 300 (0.7%)", "<= 0.5%", False),
        (Figure.share("a", 0, 0, at_least=0.5), "nothing to count", ">= 50%", None),
        (Figure.share("a", 3, 4), "3 of 4 (75.0%)", "", None),
        (Figure.number("a", 3.21, " dB", at_least=3.0, total=300), "3.21 dB on 300", ">= 3 dB", True),
        (Figure.number("a", 10.2, " s", at_most=10), "10.2 s", "<= 10 s", False),
    ],
)
def test_a_figure_tells_what_was_counted_and_whether_it_is_enough(
    figure: Figure, measured: str, target: str, reached: bool | None
) -> None:
    assert (figure.measured, figure.target, figure.reached) == (measured, target, reached)


def test_the_table_has_a_line_for_every_figure_and_says_what_was_missed() -> None:
    lines = table(
        [Figure.share("first", 1, 2, at_least=0.4), Figure.share("second", 0, 2, at_least=0.4)]
    ).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("first") and lines[2].endswith("reached")
    assert lines[3].startswith("second") and lines[3].endswith("MISSED")


def test_overlap_is_the_share_of_the_union() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_faces_are_matched_with_detections_and_errors_are_shares_of_the_eye_distance() -> None:
    drawn = drawing.draw(np.random.default_rng(2), 256, "pair")
    first, second = drawn.faces
    tally = Tally()
    twice = found(first, dx=2.0)  # a second detection of a face is false
    tally.add(drawn, [found(first), found(second, dx=5.0), twice])
    assert (tally.faces, tally.found, tally.detections, tally.false) == (2, 2, 3, 1)
    eyes = float(np.linalg.norm(second.landmarks[1] - second.landmarks[0]))
    assert tally.error == pytest.approx(100 * 5.0 / eyes / 2, rel=1e-4)
    tally.add(drawn, [])
    assert (tally.faces, tally.found, tally.empty) == (4, 2, 0)


def test_a_picture_without_people_fools_or_does_not_and_its_detections_are_false() -> None:
    tally, face = Tally(), drawing.draw(np.random.default_rng(2), 256, "portrait").faces[0]
    empty = drawing.draw(np.random.default_rng(2), 256, "clock")
    tally.add(empty, [])
    tally.add(empty, [found(face), found(face)])
    assert (tally.empty, tally.fooled, tally.detections, tally.false, tally.faces) == (2, 1, 2, 2, 0)


def test_landmarks_that_are_hidden_are_not_judged() -> None:
    face = drawing.draw(np.random.default_rng(2), 256, "portrait").faces[0]
    moved = face.landmarks.copy()
    moved[3] += 50
    half = drawing.FaceAnnotation(face.box, face.landmarks, (True, True, True, False, True), 0.3)
    assert landmark_error(moved, face) > 0.1
    assert landmark_error(moved, half) == 0


def test_the_hard_drawings_are_what_they_are_called() -> None:
    rng = np.random.default_rng(1)
    assert all(abs(d.attributes["people"][0]["turn"]) > 0.4 for d in turned(rng, 2))
    assert all(0.15 < d.faces[0].hidden <= 0.6 for d in partly_hidden(rng, 2))
    assert [d.kind for d in of_kinds(rng, 3, ("sun", "clock"))] == ["sun", "clock", "sun"]


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        (
            STANDARD_PORTRAITS[0],
            {"glasses": ("round",), "beard": ("beard",), "hat": ("none",), "background": ("blue",)},
        ),
        (STANDARD_PORTRAITS[1], {}),
        (
            "a man with curly red hair, wearing a green cap",
            {"glasses": ("none",), "beard": ("none",), "hat": ("cap",)},
        ),
        (
            "a woman with long ginger hair and glasses",
            {"hair_style": ("long", "bangs"), "glasses": ("round", "square"), "beard": ("none",),
             "hat": ("none",), "hair_color": ("red",)},
        ),
        ("two people with glasses", {}),
        ("a red sports car", {}),
    ],
)  # fmt: skip
def test_prompts_promise_what_they_name_and_that_the_rest_is_absent(
    prompt: str, asked: dict[str, tuple[str, ...]]
) -> None:
    assert read_expectation(prompt).expected == asked


def test_every_promise_is_an_answer_that_the_judge_can_give_and_the_issued_prompts_are_there() -> None:
    portraits, scenes = portrait_prompts(5, 100), scene_prompts(5, 100)
    assert [p.prompt for p in portraits[:2]] == list(STANDARD_PORTRAITS)
    assert [p.prompt for p in scenes[:2]] == list(STANDARD_SCENES)
    assert len(portraits) == len(scenes) == 100
    for name, promised in itertools.chain(*(p.expected.items() for p in portraits)):
        assert set(promised) <= {merged(answer) for answer in ATTRIBUTES[name]}
    asked = [name for p in portraits for name, promised in p.expected.items() if promised != ("none",)]
    assert all(asked.count(name) >= 10 for name in ATTRIBUTES)
    assert not any(p.person or p.expected for p in scenes)


def seen(prompt: str, faces: int, **answers: str) -> Generated:
    picture = np.zeros((8, 8, 3), np.uint8)
    return Generated(
        read_expectation(prompt), 1, picture, faces, answers, {"hair_color": None, "background": None}
    )


def test_prompts_are_scored_by_faces_and_by_each_attribute_asked_for() -> None:
    answers = {"hair_color": "red", "hair_style": "long", "glasses": "round", "beard": "none", "hat": "none"}
    drawn = [
        seen("a woman with long red hair and glasses", 1, **answers),
        seen("a woman with short black hair", 0, **answers),
        seen("red apple", 1),
        seen("a clock", 0),
    ]
    figures = {figure.name: (figure.value, figure.reached) for figure in score_prompts(drawn)}
    assert figures["portrait prompts with a face"] == (0.5, False)
    assert figures["prompts without people with a face"] == (0.5, False)
    assert figures["hair color as requested"] == figures["hair style as requested"] == (0.5, False)
    assert figures["glasses as requested"] == (0.5, False)
    assert figures["glasses as requested, if present"] == (1.0, None)
    assert figures["beard as requested"] == (1.0, True)
    assert figures["background as requested"] == (0.0, None)
    assert "hair color red (expected: black)" in describe(drawn[1])


def test_a_restored_face_gains_what_it_comes_nearer() -> None:
    clean = draw_face(np.random.default_rng(3))
    degraded = np.clip(clean.astype(int) + 40, 0, 255).astype(np.uint8)
    better = np.clip(clean.astype(int) + 4, 0, 255).astype(np.uint8)
    assert Gain.of(clean, degraded, better).psnr > 15 and Gain.of(clean, degraded, better).ssim > 0
    assert Gain.of(clean, degraded, degraded) == Gain(0, 0)


class TellsBrightness(Judge):
    """Answers each question with its second answer on bright views, else with its first."""

    def forward(self, views: torch.Tensor) -> dict[str, torch.Tensor]:
        bright = (views.mean((1, 2, 3)) > 0.5).float()[:, None]
        pad = {name: torch.zeros(len(views), len(answers) - 2) - 9 for name, answers in ATTRIBUTES.items()}
        return {name: torch.cat([1 - bright, bright, rest], 1) for name, rest in pad.items()}


def test_attributes_kept_are_counted_by_answer_and_by_face() -> None:
    dark, bright = np.zeros((SIDE, SIDE, 3), np.uint8), np.full((SIDE, SIDE, 3), 255, np.uint8)
    network = TellsBrightness()
    assert (
        classify(network, [dark])[0]["beard"] == "none" and classify(network, [bright])[0]["beard"] == "beard"
    )
    questions = len(FACE_ATTRIBUTES)
    assert count_kept(network, [dark, dark, bright], [dark, bright, bright]) == (
        2 * questions,
        3 * questions,
        2,
    )


def test_the_judge_is_asked_only_for_what_a_view_shows() -> None:
    person = drawing.draw(np.random.default_rng(1), 16, "portrait").attributes["people"][0]
    person = {**person, "hair_style": "bald", "hat": None, "cover": "hand", "beard": "beard", "glasses": None}
    answers = dict(zip(ATTRIBUTES, labels_of(person, "blue", aligned=False), strict=True))
    assert answers["hair_color"] == answers["beard"] == IGNORED
    assert ATTRIBUTES["hair_style"][answers["hair_style"]] == "bald"
    assert ATTRIBUTES["glasses"][answers["glasses"]] == "none"
    assert labels_of({**person, "hair_style": "long", "hat": "cap"}, "blue", aligned=False)[0] == IGNORED
    answers = dict(zip(ATTRIBUTES, labels_of({**person, "cover": None}, "blue", aligned=True), strict=True))
    assert {name for name, number in answers.items() if number != IGNORED} == {"glasses", "beard"}


def test_a_head_view_is_centred_on_the_face_and_goes_on_beyond_the_edge() -> None:
    picture = np.full((300, 300, 3), COLORS["blue"], np.uint8)
    picture[:100, :100] = COLORS["red"]
    view = head_view(picture, (0, 0, 80, 100))
    assert view.shape == (SIDE, SIDE, 3)
    assert tuple(view[SIDE // 2, 2]) == COLORS["red"] and tuple(view[-3, -3]) == COLORS["blue"]
    assert tuple(head_view(picture, None)[SIDE // 4, SIDE // 4]) == COLORS["red"]


def test_examples_are_two_views_with_right_answers_and_a_blind_judge_is_found_out() -> None:
    examples = draw_examples(np.random.default_rng(4))
    assert len(examples) == 2 and all(example.view.shape == (SIDE, SIDE, 3) for example in examples)
    counted = measure(TellsBrightness(), 12, seed=1)
    right, asked = (sum(column) for column in zip(*counted.values(), strict=True))
    assert asked > 60 and right / asked < 0.7


def test_the_judge_is_trained_when_it_is_first_asked_for_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = []

    def smoke(description: str, arguments: list[str]) -> Options:
        trainings.append(description)
        return parse_options(description, [*arguments, "--smoke"])

    monkeypatch.setattr("training.attributes.parse_options", smoke)
    network = open_judge(tmp_path / "attributes")
    again = open_judge(tmp_path / "attributes")
    assert trainings == ["attributes"]
    view = draw_examples(np.random.default_rng(4))[0].view
    assert classify(network, [view]) == classify(again, [view])
    (tmp_path / "attributes" / "answers.txt").write_text("other drawings")
    open_judge(tmp_path / "attributes")
    assert len(trainings) == 2


def test_the_showcase_has_sixteen_prompts_and_shows_one_face_close() -> None:
    assert len(SHEET) == 16 and {*STANDARD_PORTRAITS, *STANDARD_SCENES} <= {prompt for prompt, _ in SHEET}
    degraded, box = degraded_face(5)
    assert np.array_equal(degraded, degraded_face(5)[0]) and degraded.shape == (768, 768, 3)
    face = close_up(degraded, box)
    assert face.shape == (384, 384, 3) and labeled(face, "w = 0.5").shape == (420, 384, 3)


def test_the_judge_is_no_part_of_the_record_of_a_set(tmp_path: Path) -> None:
    for stage in ("upscaler", "attributes"):
        (tmp_path / stage).mkdir()
        write_export(tmp_path / stage, {"a": torch.zeros(1)}, step=5, minutes=30.0)
    record = training_record(tmp_path, seed=0, device="CPU", commit="abc")
    assert record["steps"] == {"upscaler": 5} and record["hours"] == 0.5
