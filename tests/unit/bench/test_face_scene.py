import numpy as np
import pytest

from atelier_restorer.align import CROP_SIZE, crop_to_picture, face_to_crop
from atelier_restorer.paste import paste_face
from bench.face_scene import LARGEST_SQUARE_PX, grid, image_size, make_scene, make_scene_with_one_face
from bench.phases import Phases
from bench.restore import level_difference, speedup


@pytest.mark.parametrize("megapixels", [1, 4, 12, 24])
@pytest.mark.parametrize("faces", [1, 4, 8, 30])
def test_faces_lie_in_the_image_and_do_not_overlap(megapixels: float, faces: int) -> None:
    width, height = image_size(megapixels)
    assert width * height == pytest.approx(megapixels * 1e6, rel=0.01)
    square, places = grid(width, height, faces)
    assert len(places) == faces
    assert square <= LARGEST_SQUARE_PX
    ends = np.array([(0, CROP_SIZE, CROP_SIZE, 0), (0, 0, CROP_SIZE, CROP_SIZE), (1, 1, 1, 1)])
    boxes = []
    for place in places:
        corners = crop_to_picture(face_to_crop(place), 1) @ ends
        boxes.append((*corners.min(axis=1), *corners.max(axis=1)))
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
        for other in boxes[number + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_thirty_faces_in_24_megapixels_are_of_a_group_photo() -> None:
    square, _ = grid(*image_size(24), 30)
    assert 200 <= square * 0.6 <= 400, "the box of a face is about 0.6 of its square"


def test_the_same_face_is_the_same_in_a_picture_of_any_size() -> None:
    small, large = (make_scene_with_one_face(megapixels, 200) for megapixels in (0.3, 1.0))
    assert small.faces == large.faces


def test_a_scene_is_made_from_its_seed() -> None:
    one, again, other = make_scene(0.1, 2), make_scene(0.1, 2), make_scene(0.1, 2, seed=1)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.restored, again.restored)
    assert (one.image != other.image).any()
    assert one.classes.shape == (2, CROP_SIZE, CROP_SIZE)


def test_pictures_are_compared_inside_and_outside_of_the_mask() -> None:
    scene = make_scene(0.1, 1)
    image, mask = scene.image.copy(), np.zeros(scene.image.shape[:2], np.uint8)
    paste_face(image, mask, scene.restored[0], crop_to_picture(face_to_crop(scene.faces[0]), 1), 1)
    assert level_difference(image, image, mask)["share_within_2"] == 1.0
    apart = level_difference(scene.image, image, mask)
    assert apart["largest"] == np.abs(image.astype(int) - scene.image)[mask > 0].max() > 2
    assert apart["largest_outside_the_mask"] == 0
    half_wrong = image.copy()
    half_wrong[:, :, 0] += np.uint8(3)
    assert level_difference(half_wrong, image, mask)["share_within_2"] == pytest.approx(2 / 3)


def test_ratios_are_of_consecutive_runs_and_of_the_fastest() -> None:
    ours = [{"paste": 1.0, "encode": 1.0}, {"paste": 0.5, "encode": 1.0}]
    ratios = speedup(ours, [{"paste": 8.0, "encode": 2.0}])
    assert ratios["paste"]["median"] == 8.0
    assert ratios["paste"]["of_min"] == 16.0
    assert ratios["total"]["median"] == 5.0
    assert ratios["paste"]["n"] == 1, "the reference ran once"


def test_seconds_are_added_up_and_moved() -> None:
    phases = Phases()
    for _ in range(2):
        with phases.phase("paste"):
            pass
    whole = phases.seconds["paste"]
    phases.move(whole / 2, "paste", "parse")
    assert phases.seconds["paste"] + phases.seconds["parse"] == pytest.approx(whole)


def test_a_phases_peak_is_measured_though_it_is_freed() -> None:
    phases = Phases(memory=True)
    with phases.phase("large"):
        np.ones(64 * 2**20, np.uint8)
    with phases.phase("small"):
        np.ones(2**20, np.uint8)
    assert 60 <= phases.peak_mib["large"] <= 80
    assert phases.peak_mib["small"] <= 8
    assert phases.peak_mib["run"] >= 60
