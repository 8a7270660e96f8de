"""OpenAI's interface for images: its fields, its qualities and its errors."""

from __future__ import annotations

from atelier_gateway.api.openai.errors import ERRORS
from atelier_gateway.api.openai.fields import FORM
from atelier_gateway.api.openai.quality import BASE_SCALE, QUALITIES, Quality
from atelier_runtime import defaults
from tools.docs import protos
from tools.docs.markdown import allowed, code, default, table


def fields() -> str:
    """Return a table of the fields of OpenAI's that have an effect."""
    rows = [
        (
            code(name),
            allowed(field),
            "required" if name in FORM.schema["required"] else default(field.get("default")),
            field["description"],
        )
        for name, field in FORM.properties.items()
    ]
    return table(("field", "values", "default", "meaning"), rows)


def qualities() -> str:
    """Return a table of what each quality does."""
    same: dict[Quality, list[str]] = {}
    for name, quality in QUALITIES.items():
        same.setdefault(quality, []).append(code(name))
    rows = [
        (", ".join(names), _steps(quality), _passes(quality), code(quality.effective))
        for quality, names in same.items()
    ]
    return table(("`quality`", "steps", "passes", "in the answer"), rows)


def errors() -> str:
    """Return a table of the errors: status, type and code."""
    meanings = protos.enum_comments("ErrorReason")
    rows = [
        (str(error.status), code(error.type), code(error.code), meanings[reason.name])
        for reason, error in sorted(ERRORS.items(), key=lambda item: item[1].status)
    ]
    return table(("HTTP", "`type`", "`code`", "meaning"), rows)


def _steps(quality: Quality) -> str:
    if quality.steps is None:
        return "the set's"
    low, high = defaults.NUM_INFERENCE_STEPS_RANGE
    limit = f"at least {low}" if quality.steps < 1 else f"at most {high}"
    return f"{quality.steps:g} x the set's, {limit}"


def _passes(quality: Quality) -> str:
    if not quality.hires:
        return "one, at the full size"
    low = defaults.SIDE_PX_RANGE[0]
    return (
        f"at {BASE_SCALE:g} of the size, then at the full size; one if {BASE_SCALE:g} of a side is less than "
        f"{low} px, and for edits"
    )
