import json

from hypothesis import given, settings
from hypothesis import strategies as st

from atelier_gateway.api.native.generate_response import FaceAnswer, GenerateReport
from atelier_gateway.api.native.report import REPORT_LIMIT_BYTES, report_header
from atelier_runtime.outcomes import SkipReason, WarningCode

FACE = FaceAnswer(
    box=(1000.1, 1000.2, 1100.3, 1100.4), confidence=0.9999, restored=False, reason=SkipReason.LOW_CONFIDENCE
)
CODES = list(WarningCode)


def report(faces: int, warnings: list[str]) -> GenerateReport:
    return GenerateReport(
        seed=1,
        model="demo",
        sampler="euler_ancestral",
        schedule="exponential",
        num_inference_steps=150,
        guidance_scale=7.5,
        request_id="r" * 64,
        final_resolution="256x256",
        generation_time_seconds=1.0,
        refiner_applied=False,
        refiner_reason=None,
        hires_fix_applied=False,
        hires_fix_reason=None,
        upscaler=None,
        upscale_applied=1,
        face_restoration_applied=False,
        face_restoration_reason=None,
        tone_matched=False,
        faces=[FACE] * faces,
        warnings=warnings,
        warning_codes=[CODES[index % len(CODES)] for index in range(len(warnings))],
    )


@settings(max_examples=40, deadline=None)
@given(faces=st.integers(0, 200), warnings=st.lists(st.text(max_size=1000), max_size=40))
def test_it_is_ascii_fits_and_accounts_for_everything(faces: int, warnings: list[str]) -> None:
    whole = report(faces, warnings)
    header = report_header(whole)
    assert len(header) <= REPORT_LIMIT_BYTES
    assert all(" " <= character <= "~" for character in header)
    content = json.loads(header)
    left_out = content.get("left_out", {"faces": 0, "warnings": 0})
    assert len(content["faces"]) + left_out["faces"] == faces
    assert len(content["warnings"]) + left_out["warnings"] == len(warnings)
    kept = len(content["warnings"])
    assert content["warning_codes"] == whole.warning_codes[:kept], "each warning keeps its code"


def test_a_short_report_is_whole() -> None:
    whole = report(3, ["ä\x7f"])
    assert json.loads(report_header(whole)) == whole.model_dump(mode="json")
