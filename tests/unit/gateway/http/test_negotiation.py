import pytest

from atelier_gateway.http.negotiation import preferred_format
from atelier_runtime.errors import InvalidRequest


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        (None, None),
        ("", None),
        ("*/*", None),
        ("application/json", None),
        ("application/*", None),
        ("text/html", None),
        ("text/html,application/xhtml+xml,*/*;q=0.8", None),
        ("image/*", "png"),
        ("IMAGE/PNG", "png"),
        ("image/jpg", "jpeg"),
        ("image/jpeg; q=0.3", "jpeg"),
        ("image/png;q=0", None),
        ("image/*, application/json", None),
        ("image/png, */*", "png"),
        ("image/png;q=0.9, */*", None),
        ("image/png;q=0.9, application/json;q=0.8", "png"),
        ("image/webp;q=0.5, image/jpeg;q=0.7, image/png;q=0.7", "jpeg"),
        ("image/*, image/webp", "webp"),
        ("image/gif, image/webp", "webp"),
        ("image/gif, application/json", None),
        ("image/png;q=nonsense", "png"),
        (";;,,", None),
    ],
)
def test_what_is_preferred(accept: str | None, preferred: str | None) -> None:
    assert preferred_format(accept) == preferred


@pytest.mark.parametrize("accept", ["image/gif", "image/gif, image/avif;q=0.5", "image/gif, image/png;q=0"])
def test_image_types_that_cannot_be_written(accept: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        preferred_format(accept)
    assert refused.value.fields[0].field == "Accept"
