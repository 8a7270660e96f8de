import json

from hypothesis import given, settings
from hypothesis import strategies as st

from atelier_gateway.answers import REPORT_LIMIT_BYTES, FaceAnswer, Report, report_header

FACE = FaceAnswer(
    box=(1000.1, 1000.2, 1100.3, 1100.4), confidence=0.9999, restored=False, reason="low_confidence"
)


def report(faces: int, warnings: list[str]) -> Report:
    return Report(
        seed=1,
        model="demo",
        request_id="r" * 64,
        final_resolution="256x256",
        generation_time_seconds=1.0,
        refiner_applied=False,
        hires_fix_applied=False,
        upscale_applied=1,
        face_restoration_applied=False,
        tone_matched=False,
        faces=[FACE] * faces,
        warnings=warnings,
    )


@settings(max_examples=60, deadline=None)
@given(faces=st.integers(0, 300), warnings=st.lists(st.text(max_size=3000), max_size=40))
def test_it_is_ascii_fits_and_accounts_for_everything(faces: int, warnings: list[str]) -> None:
    header = report_header(report(faces, warnings))
    assert len(header) <= REPORT_LIMIT_BYTES
    assert all(" " <= character <= "~" for character in header)
    content = json.loads(header)
    left_out = content.get("left_out", {"faces": 0, "warnings": 0})
    assert len(content["faces"]) + left_out["faces"] == faces
    assert len(content["warnings"]) + left_out["warnings"] == len(warnings)


def test_a_short_report_is_whole() -> None:
    whole = report(3, ["ä\x7f"])
    assert json.loads(report_header(whole)) == whole.model_dump(mode="json")
