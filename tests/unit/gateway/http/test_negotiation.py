import pytest

from atelier_gateway.http.negotiation import accepts_gzip, preferred_format, prefers_html
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


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("image/*", False),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("text/*", True),
        ("text/html, */*", True),
        ("text/html;q=0.5, */*;q=0.8", False),
        ("text/html;q=0.5, */*;q=0.4", True),
        ("text/html, application/json", False),
        ("text/html, application/json;q=0.9", True),
        ("text/html;q=0.9, application/*;q=0.9", False),
        ("text/html;q=0", False),
        ("text/*;q=0.9, text/html;q=0, */*;q=0.1", False),
        ("application/json;q=0, */*", False),
    ],
)
def test_whether_a_page_is_preferred(accept: str | None, preferred: bool) -> None:
    assert prefers_html(accept) is preferred


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("gzip, deflate, br, zstd", True),
        ("GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0, *", False),
        ("identity", False),
        ("", False),
        (None, False),
    ],
)
def test_who_may_be_sent_gzip(header: str | None, allowed: bool) -> None:
    assert accepts_gzip(header) is allowed
