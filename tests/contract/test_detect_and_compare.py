"""POST /detect, whose response is a plan for /restore and /compare, and POST /compare."""

from __future__ import annotations

from typing import Any

import pytest

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from tests.contract.photo_requests import AS_JSON_AND_FORM, PNG, decoded, in_json
from tests.contract.scripted_restorer import LANDMARKS
from tests.contract.stack import Stack


@AS_JSON_AND_FORM
def test_what_detect_returns_is_taken_back_unchanged(stack: Stack, post: Any) -> None:
    stack.restorer.faces = [(1 / 3, True, None), (0.7, True, None), (0.6, True, None)]
    found = post(stack, "/detect").json()
    assert set(found) == {
        *("success", "faces", "width", "height", "request_id", "total_time_seconds"),
        *("warnings", "warning_codes", "stages"),
    }
    assert (found["width"], found["height"], found["success"]) == (64, 48, True)
    assert [stage["stage"] for stage in found["stages"]] == ["decode", "detect"]
    plan = [{**found["faces"][0], "fidelity": 0.9}, {**found["faces"][1], "skip": True}, found["faces"][2]]
    answer = post(stack, "/restore", faces=plan, fidelity=0.4).json()
    edits = stack.restorer.requests[1].faces
    detected = stack.restorer.requests[0]
    assert detected == pb.DetectFacesRequest(image=image_pb2.Image(data=PNG))
    for index, edit in enumerate(edits):
        assert edit.face.index == index
        assert (edit.face.box.x2_px, edit.face.size_px) == (110.04 + index, 100.04)
        points = [(point.x_px, point.y_px) for point in edit.face.landmarks]
        assert points == [(x + index + 1 / 3, y) for x, y in LANDMARKS], "to the last digit"
        assert edit.face.HasField("sharpness") == (index != 1)
        assert edit.face.roll_degrees == -0.125
    assert [edit.face.confidence for edit in edits] == [1 / 3, 0.7, 0.6]
    assert [edit.HasField("fidelity") for edit in edits] == [True, False, False]
    assert [edit.skip for edit in edits] == [False, True, False]
    assert [face["fidelity"] for face in answer["faces"]] == [0.9, None, 0.4]
    assert [face["reason"] for face in answer["faces"]] == [None, "skipped", None]


@AS_JSON_AND_FORM
def test_the_whole_response_of_detect_is_taken_back_too(stack: Stack, post: Any) -> None:
    stack.restorer.faces = [(0.9, True, None), (0.7, True, None)]
    found = post(stack, "/detect").json()
    found["faces"][1]["skip"] = True
    for path, options in (("/restore", {}), ("/compare", {"fidelities": [0.5]})):
        response = post(stack, path, faces=found, **options)
        assert response.status_code == 200, response.text
        sent = stack.restorer.requests[-1]
        edits = (sent.restore if path == "/compare" else sent).faces
        assert [(edit.face.index, edit.skip) for edit in edits] == [(0, False), (1, True)]
    stack.restorer.faces = []
    nothing = post(stack, "/detect").json()
    assert nothing["faces"] == []
    assert post(stack, "/restore", faces=nothing).status_code == 200


def test_an_edit_by_hand_needs_box_and_landmarks_only(stack: Stack) -> None:
    edit = {"box": [1, 2, 30, 40], "landmarks": LANDMARKS}
    assert in_json(stack, "/restore", faces=[edit, edit]).status_code == 200
    faces = [edit.face for edit in stack.restorer.requests[0].faces]
    assert [(face.index, face.confidence) for face in faces] == [(0, 1.0), (1, 1.0)]


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        (
            {"min_confidence": 0.5, "detect_size": 0},
            lambda r: (r.min_confidence, r.detect_size_px) == (0.5, 0),
        ),
        ({"detect_size": 0}, lambda r: r.HasField("detect_size_px")),
        ({"detect_size": 64.0}, lambda r: r.detect_size_px == 64),
        ({}, lambda r: r.look == pb.LOOK_UNSPECIFIED),
        ({"look": "thorough"}, lambda r: r.look == pb.LOOK_THOROUGH),
    ],
)
@AS_JSON_AND_FORM
def test_fields_of_detect(stack: Stack, post: Any, given: dict[str, Any], holds: Any) -> None:
    assert post(stack, "/detect", **given).status_code == 200
    assert holds(stack.restorer.requests[0])


@AS_JSON_AND_FORM
def test_compare(stack: Stack, post: Any) -> None:
    answer = post(stack, "/compare", fidelities=[0.2, 1, 0.6], return_mask=True, upscale=2).json()
    assert set(answer) == {"success", "results", "request_id", "total_time_seconds"}
    [sent] = stack.restorer.requests
    assert list(sent.fidelities) == [0.2, 1.0, 0.6]
    assert (sent.restore.upscale, sent.restore.return_mask) == (2, True)
    assert not sent.restore.HasField("fidelity")
    assert [result["fidelity"] for result in answer["results"]] == [0.2, 1.0, 0.6]
    for result in answer["results"]:
        assert decoded(result["image"]).size == decoded(result["mask"]).size == (128, 96)
        assert result["faces"][0]["fidelity"] == result["fidelity"]
        assert (result["face_restoration_applied"], result["model_set"]) == (True, "demo")
        assert result["stages"]
