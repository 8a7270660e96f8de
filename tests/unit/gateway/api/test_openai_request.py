"""What must hold of every request of OpenAI's interface, whatever its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier_gateway.api.openai.quality import QUALITIES, base_of, steps_of
from atelier_gateway.api.openai.request import ImageWork, complete, prepare
from atelier_gateway.api.openai.response import image_tokens
from atelier_runtime import defaults
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.sizes import Size

SIDES = st.integers(32, 256).map(lambda n: 8 * n)
EXTENSIONS = {
    "negative_prompt": st.text(st.characters(codec="utf-8"), max_size=20),
    "seed": st.integers(0, 2**40),
    "steps": st.integers(2, 150),
    "guidance_scale": st.floats(0, 30),
    "use_face_restoration": st.booleans(),
    "face_restoration_weight": st.floats(0, 1),
    "use_refiner": st.booleans(),
    "sampler": st.sampled_from(["euler", "DPM++ 2M Karras"]),
    "upscale": st.sampled_from([1, 2, 4]),
    "quality": st.sampled_from(sorted(QUALITIES)),
    "n": st.integers(1, 10),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def work_of(body: Mapping[str, Any], *, edits: bool = False, set_steps: int = 30) -> ImageWork:
    prepared = prepare(body, edits=edits)
    steps = set_steps if prepared.needs_steps else None
    return complete(prepared, steps, lambda spec: [], max_image_bytes=1000, max_pixels=50_000_000)


@given(
    fields=st.fixed_dictionaries({}, optional=EXTENSIONS),
    nested=st.sets(st.sampled_from(sorted(EXTENSIONS))),
    width=SIDES,
    height=SIDES,
)
def test_fields_mean_the_same_wherever_they_stand(
    fields: dict[str, Any], nested: set[str], width: int, height: int
) -> None:
    request = {"prompt": "x", "size": f"{width}x{height}"}
    beside = {name: value for name, value in fields.items() if name not in nested}
    inside = {name: value for name, value in fields.items() if name in nested}
    flat = work_of({**request, **fields})
    assert work_of({**request, **beside, "extra_body": inside}).spec == flat.spec
    assert flat.ignored == ()
    assert flat.spec.result_size() == Size(flat.spec.upscale * width, flat.spec.upscale * height)


@given(
    body=st.dictionaries(st.sampled_from([*EXTENSIONS, "prompt", "size", "extra_body", "image", "?"]), JSON)
)
@pytest.mark.parametrize("edits", [True, False])
def test_any_json_is_drawn_or_refused_by_a_field_that_it_has(body: dict[str, Any], edits: bool) -> None:
    try:
        work_of(body, edits=edits)
    except InvalidRequest as error:
        assert error.fields
        for violation in error.fields:
            head = violation.field.partition("[")[0].partition(".")[0]
            assert head in {*body, "prompt", "image"}, violation


@given(width=SIDES, height=SIDES)
def test_first_passes_are_of_sizes_that_can_be_drawn(width: int, height: int) -> None:
    low, high = defaults.SIDE_PX_RANGE
    base = base_of(Size(width, height))
    if base is None:
        assert 0.75 * min(width, height) < low
        return
    for side, own in ((width, base.width), (height, base.height)):
        assert low <= own <= high and own % defaults.SIDE_PX_MULTIPLE == 0 and abs(own - 0.75 * side) <= 4


@given(
    quality=st.sampled_from(list(QUALITIES.values())), own=st.integers(*defaults.NUM_INFERENCE_STEPS_RANGE)
)
def test_steps_can_be_drawn(quality: Any, own: int) -> None:
    low, high = defaults.NUM_INFERENCE_STEPS_RANGE
    steps = steps_of(quality, own)
    assert steps is None or low <= steps <= high


@given(width=st.integers(1, 9000), height=st.integers(1, 9000))
def test_tokens_cover_the_image(width: int, height: int) -> None:
    assert width * height <= 256 * image_tokens(width, height) < (width + 16) * (height + 16)
