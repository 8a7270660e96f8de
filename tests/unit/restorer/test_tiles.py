"""Larger looks in tiles, where a real network has no memory for the image as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from atelier_restorer.detect import FaceDetector, resized
from atelier_restorer.detections import Detections
from atelier_restorer.looks import Found, find_faces
from atelier_restorer.request import Look
from atelier_restorer.tiles import _SLACK_PX, _rounded_up, look_closer
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.errors import OutOfMemory
from tests.published_retinaface import published_state

HEIGHT, WIDTH, SIZE_PX = 1000, 1500, 320
FIRST, SECOND, THIRD = (320 * 480, 640 * 960, 960 * 1440)
"""Pixels of the looks at a scene."""


def no_memory_on_the_cpu() -> BaseException:
    """Return what torch raises."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    return caught.value


OUT_OF_MEMORY: dict[str, Callable[[], BaseException]] = {
    "CUDA": lambda: torch.OutOfMemoryError("CUDA out of memory."),
    "CPU": no_memory_on_the_cpu,
    "oneDNN": lambda: RuntimeError("could not create a primitive"),
    "NumPy": lambda: MemoryError("Unable to allocate 1 TiB"),
}


@dataclass
class Device:
    """A detector on a device with memory for so many pixels at a time, and the pixels of every pass."""

    pixels: float = float("inf")
    kind: str = "CUDA"
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.detector = FaceDetector.from_state_dict(published_state(), torch.device("cpu"))
        self.detector._network.register_forward_pre_hook(self._allocate)

    def _allocate(self, network: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        height, width = inputs[0].shape[2:]
        self.seen.append(height * width)
        if height * width > self.pixels:
            raise OUT_OF_MEMORY[self.kind]()

    def find(self, image: np.ndarray, look: Look = Look.AUTO, **options: Any) -> Found:
        options = {"size_px": SIZE_PX, "min_confidence": 0.8, **options}
        return find_faces(self.detector, image, look=look, **options)

    def closer(self, view: np.ndarray, face_px: float = 72.0) -> Detections:
        return look_closer(self.detector, view, 0.8, face_px=face_px, check=lambda: None).faces


def portrait(side: int) -> np.ndarray:
    """A head; the face is 0.42 of it wide."""
    head = np.ascontiguousarray(data.astronaut()[10:250, 102:342])
    return cv2.resize(head, (side, side), interpolation=cv2.INTER_AREA)


def scene(height: int, width: int, places: list[tuple[int, int, int]]) -> np.ndarray:
    """Heads at (left, top, side) on noise, whose cells may be seen differently near an edge."""
    noise = np.random.default_rng(0).integers(60, 140, (height // 8, width // 8, 3), np.uint8)
    canvas = np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
    for left, top, side in places:
        canvas[top : top + side, left : left + side] = portrait(side)
    return canvas


CROWD = [(40 + 142 * (n % 10), 40 + 155 * (n // 10), 56 + 8 * (n % 7)) for n in range(60)]
"""Faces of 24 to 44 px: 8 to 14 px in the first look."""


def same_faces(some: Detections, others: Detections, width: int, height: int, *, within_px: float) -> None:
    assert len(some) == len(others)
    distances = np.abs(some.boxes[:, None] - others.boxes[None]).reshape(len(some), len(others), 2, 2)
    apart = (distances * (width, height)).max(axis=(2, 3))
    nearest = apart.argmin(axis=1)
    assert sorted(nearest) == list(range(len(others))), "each has its own"
    assert apart.min(axis=1).max() < within_px
    assert np.abs(some.scores - others.scores[nearest]).max() < 0.02


@pytest.fixture(scope="module")
def whole() -> Found:
    """What is found in the crowd where there is memory."""
    return Device().find(scene(HEIGHT, WIDTH, CROWD))


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_what_each_device_raises_is_known(kind: str) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        raise OUT_OF_MEMORY[kind]()
    assert is_out_of_memory(caught.value)
    for other in ("mat1 and mat2 shapes cannot be multiplied", "could not create a primitive descriptor"):
        assert not is_out_of_memory(RuntimeError(other))


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [(THIRD * 3 // 4, "CUDA"), (SECOND, "CUDA"), (SECOND - 1, "CPU"), (SECOND * 3 // 4, "NumPy")],
)
def test_tiles_find_the_faces_that_the_whole_image_shows(whole: Found, pixels: int, kind: str) -> None:
    device = Device(pixels, kind)
    found = device.find(scene(HEIGHT, WIDTH, CROWD))
    assert len(CROWD) >= len(whole.faces) > 0.9 * len(CROWD) and not whole.in_tiles and found.in_tiles
    same_faces(found.faces, whole.faces, WIDTH, HEIGHT, within_px=1.5)
    assert not found.unclear.any()
    assert min(device.seen) < pixels < max(device.seen)


def test_where_memory_suffices_nothing_is_different(whole: Found) -> None:
    device = Device(THIRD)
    found = device.find(scene(HEIGHT, WIDTH, CROWD))
    assert device.detector.max_pixels is None and {FIRST, SECOND, THIRD} <= set(device.seen)
    for name in ("boxes", "landmarks", "scores", "log_odds"):
        assert np.array_equal(getattr(found.faces, name), getattr(whole.faces, name))
    view = resized(scene(HEIGHT, WIDTH, CROWD), 960)
    at_once = device.detector.look(view[None], 0.8)[0]
    assert np.array_equal(device.closer(view).boxes, at_once.boxes)


@pytest.mark.parametrize("wide", [True, False])
def test_a_face_across_a_seam_is_found_once_wherever_it_lies(wide: bool) -> None:
    length, breadth, side = 1472, 416, 72
    width, height = (length, breadth) if wide else (breadth, length)
    offsets = [-44, -30, -_SLACK_PX, -9, -4, 0, 3, 9, _SLACK_PX, 31, 44]
    for start in range(0, len(offsets), 4):
        along = [_rounded_up(length / 2) + offset - side // 2 for offset in offsets[start : start + 4]]
        places = [
            (place, 20 + 96 * n, side) if wide else (20 + 96 * n, place, side)
            for n, place in enumerate(along)
        ]
        view = scene(height, width, places)
        at_once = Device().closer(view)
        device = Device(view[..., 0].size - 1)
        in_tiles = device.closer(view)
        assert len(device.seen) == 3, "one that fails, and two"
        assert len(at_once) == len(places)
        same_faces(in_tiles, at_once, width, height, within_px=0.5)


@pytest.mark.parametrize("offset", [-60, -20, 0, 20, 60])
def test_the_largest_face_that_may_be_added_is_seen_whole(offset: int) -> None:
    """Of 96 px, the limit of the look at twice the size."""
    width, height, side = 1472, 736, 220
    places = [(_rounded_up(width / 2) + offset - side // 2, 320 + offset, side)]
    view = scene(height, width, places)
    [size] = Device().closer(view, face_px=96).sides(width, height)
    assert 80 < size < 96
    device = Device(700_000)
    same_faces(device.closer(view, 96), Device().closer(view, 96), width, height, within_px=0.5)
    assert len(device.seen) > 4


def test_a_large_face_beside_small_ones_is_found_once() -> None:
    places = [(40, 60, 850), *((930 + 96 * n, 450, 66) for n in range(5))]
    image = scene(HEIGHT, WIDTH, places)
    found = Device(SECOND - 1).find(image, Look.THOROUGH)
    assert found.in_tiles
    same_faces(found.faces, Device().find(image, Look.THOROUGH).faces, WIDTH, HEIGHT, within_px=1.5)
    assert len(found.faces) == len(places)


def test_what_fits_is_remembered_and_halved_further_only_as_far_as_needed() -> None:
    device = Device(500_000)
    image = scene(HEIGHT, WIDTH, CROWD)
    device.find(image)
    assert device.detector.max_pixels is not None and device.detector.max_pixels <= SECOND
    device.seen.clear()
    again = device.find(image)
    assert again.in_tiles and max(device.seen) <= device.pixels, "nothing has failed"


def test_a_first_look_that_does_not_fit_names_the_size() -> None:
    """Tiles would miss large faces, and another size is not what was asked for."""
    image = scene(HEIGHT, WIDTH, CROWD)
    device = Device(FIRST)
    with pytest.raises(OutOfMemory, match=r"960x640 px.*detect_size of 640.*than 640 px"):
        device.find(image, Look.ONCE, size_px=640)
    with pytest.raises(OutOfMemory, match=r"1500x1000 px.*detect_size of 0.*than 1000 px"):
        device.find(image, size_px=0)
    assert device.detector.max_pixels is None, "which is remembered of larger looks only"
    device.find(image, Look.ONCE)


def test_tiles_are_not_cut_without_end() -> None:
    device = Device(0)
    with pytest.raises(torch.OutOfMemoryError):
        device.closer(scene(960, 1440, []))
    assert len(device.seen) < 10 and min(device.seen) > 100_000


def test_another_failure_is_not_taken_for_a_lack_of_memory() -> None:
    device = Device()

    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    device.detector._network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        device.closer(scene(960, 1440, []))
    assert len(device.seen) == 1 and device.detector.max_pixels is None


def test_a_search_can_be_ended_between_tiles() -> None:
    device = Device(SECOND - 1)
    image = scene(HEIGHT, WIDTH, CROWD)
    device.find(image)
    passes = len(device.seen)
    device = Device(SECOND - 1)

    def end() -> None:
        if FIRST < (device.seen or [0])[-1] <= device.pixels:  # a tile was looked at
            raise TimeoutError

    with pytest.raises(TimeoutError):
        device.find(image, check=end)
    assert 0 < len(device.seen) < passes
