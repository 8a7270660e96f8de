import socket
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atelier_restorer.detect import (
    MAX_CANDIDATES,
    MAX_ENLARGED_SIDE_PX,
    MAX_PIXELS,
    FaceDetector,
    decode,
    make_anchors,
    resized,
)
from atelier_runtime.errors import BadImage, InvalidRequest
from tests.parity import recipe
from tests.tiny_restorer import FACES_OF_256_PX, FACES_OF_512_PX, detector_state

CPU = torch.device("cpu")
Shapes = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def random() -> FaceDetector:
    """A detector whose output depends on the image."""
    return FaceDetector.from_state_dict(recipe.state_dict("retinaface_mobile025", 2), CPU)


def detector_of(faces: dict[tuple[int, int], float]) -> FaceDetector:
    return FaceDetector.from_state_dict(detector_state(faces), CPU)


def image_of(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    return recipe.image("retinaface", seed, height, width)


def test_building_a_network_needs_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    FaceDetector.from_state_dict(detector_state(), CPU)
    FaceDetector.from_state_dict(recipe.state_dict("retinaface_resnet50", 1), CPU)


def test_weights_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="not a RetinaFace"):
        FaceDetector.from_state_dict({"fpn.output1.0.weight": torch.zeros(128, 1, 1, 1)}, CPU)
    state = detector_state()
    del state["ssh1.conv3X3.0.weight"]
    with pytest.raises(ValueError, match="ssh1"):
        FaceDetector.from_state_dict(state, CPU)


def test_half_precision_weights_run_in_float32() -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in detector_state().items()}
    offsets, scores, _ = FaceDetector.from_state_dict(state, CPU).raw(image_of(1)[None])
    assert offsets.dtype == scores.dtype == torch.float32


def test_a_batch_of_images_of_several_shapes_equals_each_alone(random: FaceDetector) -> None:
    images = [image_of(1), image_of(2, 64, 64), image_of(3), image_of(4, 64, 64)]
    together = random.detect(images, size_px=0, min_confidence=0.8)
    assert any(together)
    for one, faces in zip(images, together, strict=True):
        alone = random.detect([one], size_px=0, min_confidence=0.8)[0]
        assert len(alone) == len(faces)
        for a, b in zip(alone, faces, strict=True):
            np.testing.assert_allclose(a.box, b.box, atol=0.01)
            assert a.confidence == pytest.approx(b.confidence, abs=1e-5)


def test_faces_are_in_px_of_the_image_whatever_the_detectors_input_size() -> None:
    detector = detector_of({FACES_OF_512_PX: 0.9})
    for height, width in ((320, 320), (640, 800), (1280, 1280), (200, 300)):
        faces = detector.detect([image_of(1, height, width)], size_px=640, min_confidence=0.5)[0]
        scale = 640 / min(height, width)
        for face in faces:
            assert face.size_px == pytest.approx(512 / scale, rel=0.01)
            (left, _), (right, _) = face.landmarks[:2]
            assert left < right
            assert face.eye_distance_px == pytest.approx(126 / scale, rel=0.02)


def test_the_threshold_is_strict_and_the_highest_confidence_comes_first() -> None:
    detector = detector_of({FACES_OF_512_PX: 0.9, FACES_OF_256_PX: 0.7})
    faces = detector.detect([image_of(1)], size_px=640, min_confidence=0.5)[0]
    confidences = [face.confidence for face in faces]
    assert confidences == sorted(confidences, reverse=True)
    assert {round(c, 3) for c in confidences} == {0.9, 0.7}
    assert [face.index for face in faces] == list(range(len(faces)))
    exact = confidences[0]
    assert detector.detect([image_of(1)], size_px=640, min_confidence=exact)[0] == []


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Shapes:
    """The shapes of the batches that networks run from now on."""
    seen: Shapes = []
    original = FaceDetector.raw

    def recording(self: FaceDetector, batch: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(batch.shape)
        return original(self, batch)

    monkeypatch.setattr(FaceDetector, "raw", recording)
    return seen


@pytest.mark.parametrize(
    ("height", "width", "looked_at"),
    [
        (1, 1, (640, 640)),
        (1, 1000, (2, MAX_ENLARGED_SIDE_PX)),
        (1000, 1, (MAX_ENLARGED_SIDE_PX, 2)),
        (2, 50, (102, MAX_ENLARGED_SIDE_PX)),
        (1, 6000, (1, 6000)),
        (33, 17, (1242, 640)),
    ],
)
def test_extreme_shapes(
    height: int, width: int, looked_at: tuple[int, int], shapes: list[tuple[int, ...]]
) -> None:
    detector = detector_of({FACES_OF_256_PX: 0.9})
    resized_faces = detector.detect([image_of(1, height, width)], size_px=640, min_confidence=0.5)[0]
    as_is = detector.detect([image_of(1, height, width)], size_px=0, min_confidence=0.5)[0]
    assert shapes == [(1, *looked_at, 3), (1, height, width, 3)]
    assert resized_faces and as_is
    for face in (*resized_faces, *as_is):
        assert np.isfinite([*face.box, *np.ravel(face.landmarks)]).all()


@pytest.mark.parametrize(
    ("height", "width", "looked_at"),
    [
        (768, 8725, (640, 7270)),  # a panorama keeps its short side
        (300, 3000, (300, 3000)),  # and is not enlarged
        (300, 1000, (640, 2133)),
        (300, 2000, (384, 2560)),
        (1000, 60_000, (640, 38_400)),
        (1000, 70_000, (585, 41_000)),
        (6000, 4000, (960, 640)),
    ],
)
def test_what_a_look_at_640_px_sees(height: int, width: int, looked_at: tuple[int, int]) -> None:
    image = np.broadcast_to(np.zeros(3, np.uint8), (height, width, 3))
    seen = resized(image, 640).shape[:2]
    assert seen == looked_at
    assert np.prod([-(-side // 32) * 32 for side in seen]) <= MAX_PIXELS


def test_full_resolution_is_not_resized(shapes: Shapes) -> None:
    detector_of({FACES_OF_256_PX: 0.9}).detect([image_of(1, 32, 4000)], size_px=0, min_confidence=0.5)
    assert shapes == [(1, 32, 4000, 3)]


@pytest.mark.parametrize(("height", "width"), [(5000, 5001), (1, 800_000)])
def test_an_image_too_large_for_full_resolution_is_refused(
    height: int, width: int, shapes: list[tuple[int, ...]]
) -> None:
    huge = np.broadcast_to(np.zeros(3, np.uint8), (height, width, 3))
    with pytest.raises(InvalidRequest, match=f"{width}x{height}.*{MAX_PIXELS}") as caught:
        detector_of({}).detect([huge], size_px=0, min_confidence=0.5)
    assert [violation.field for violation in caught.value.fields] == ["detect_size_px"]
    assert shapes == []


def test_a_box_may_extend_beyond_the_image() -> None:
    faces = detector_of({FACES_OF_512_PX: 0.9}).detect([image_of(1, 64, 64)], size_px=0, min_confidence=0.5)[
        0
    ]
    assert min(faces[0].box) < 0 and max(faces[0].box) > 64


def test_an_output_of_nan_is_an_error_rather_than_no_face() -> None:
    state = detector_state()
    state["ClassHead.0.conv1x1.bias"][0] = float("nan")
    with pytest.raises(BadImage):
        FaceDetector.from_state_dict(state, CPU).detect([image_of(1)], size_px=0, min_confidence=0.5)


def test_anchors_are_ordered_by_level_row_column_size() -> None:
    anchors = make_anchors(48, 80)
    assert len(anchors) == 2 * (6 * 10 + 3 * 5 + 2 * 3)
    assert anchors[0].tolist() == pytest.approx([4 / 80, 4 / 48, 16 / 80, 16 / 48])
    assert anchors[1].tolist() == pytest.approx([4 / 80, 4 / 48, 32 / 80, 32 / 48])
    assert anchors[2].tolist() == pytest.approx([12 / 80, 4 / 48, 16 / 80, 16 / 48])
    assert anchors[-1].tolist() == pytest.approx([80 / 80, 48 / 48, 512 / 80, 512 / 48])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return float(inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside))


def test_duplicates_are_suppressed_as_by_hand() -> None:
    generator = torch.Generator().manual_seed(3)
    anchors = make_anchors(64, 64)
    scores = torch.rand(len(anchors), generator=generator)
    both = torch.stack([1 - scores, scores], dim=1)
    offsets = torch.randn(len(anchors), 4, generator=generator)
    landmarks = torch.randn(len(anchors), 10, generator=generator)
    found = decode(offsets, both, landmarks, 64, 64, 0.6)

    centers = anchors[:, :2] + offsets[:, :2] * 0.1 * anchors[:, 2:]
    sizes = anchors[:, 2:] * torch.exp(offsets[:, 2:] * 0.2)
    every = torch.cat([centers - sizes / 2, centers + sizes / 2], dim=1).numpy()
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if scores[i] > 0.6 and all(overlap(every[i], every[k]) <= 0.4 for k in kept):
            kept.append(i)
    np.testing.assert_allclose(found.boxes, every[kept], atol=1e-5)
    np.testing.assert_allclose(found.scores, scores[kept])
    nose = anchors[kept, :2] + landmarks[kept, 4:6] * 0.1 * anchors[kept, 2:]
    np.testing.assert_allclose(found.landmarks[:, 2], nose, atol=1e-5)


def test_among_equal_scores_the_face_of_higher_confidence_is_kept() -> None:
    """Near 1 many probabilities round to the same float32; their small complements tell them apart."""
    anchors = len(make_anchors(16, 16))
    scores = torch.full((anchors, 2), 0.9999999)
    scores[:, 0] = torch.linspace(2e-7, 1e-7, anchors)  # the last has the highest confidence
    shifts = torch.linspace(0, 0.1, anchors)[:, None].repeat(1, 4)
    found = decode(shifts, scores, torch.zeros(anchors, 10), 16, 16, 0.8)
    best = decode(shifts[-1:].repeat(anchors, 1), scores, torch.zeros(anchors, 10), 16, 16, 0.8)
    assert found.scores[0] == np.float32(0.9999999)
    np.testing.assert_array_equal(found.boxes[0], best.boxes[0])


def test_thousands_of_faces_are_all_returned_and_too_many_candidates_are_refused() -> None:
    side = 1536
    anchors = len(make_anchors(side, side))
    scores = torch.tensor([0.1, 0.9]).repeat(anchors, 1)
    tiny = torch.tensor([0.0, 0.0, -10.0, -10.0]).repeat(anchors, 1)  # boxes that overlap no others
    few = scores.clone()
    few[8000:, 1] = 0.1
    found = decode(tiny, few, torch.zeros(anchors, 10), side, side, 0.8)
    assert len(found) == 8000
    assert anchors > MAX_CANDIDATES
    with pytest.raises(InvalidRequest, match=str(MAX_CANDIDATES)) as caught:
        decode(tiny, scores, torch.zeros(anchors, 10), side, side, 0.8)
    assert [violation.field for violation in caught.value.fields] == ["min_confidence"]
