import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier_gateway.http.multipart import parse_form
from atelier_runtime.errors import MalformedBody

TYPE = "multipart/form-data; boundary=b"


def body(*parts: tuple[str, bytes]) -> bytes:
    return (
        b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + b"--b--"
    )


@pytest.mark.parametrize(
    ("head", "name", "is_file"),
    [
        ('Content-Disposition: form-data; name="a"', "a", False),
        ("content-disposition: form-data; name=a", "a", False),
        ('Content-Disposition: form-data; name="a"\r\nContent-Type: text/plain; charset=utf-8', "a", False),
        ('Content-Disposition: form-data; name="a"\r\nContent-Type: image/png', "a", True),
        ('Content-Disposition: form-data; name="a"; filename=""', "a", True),
        ('Content-Disposition: form-data; name="a"; b="\\"; filename*=c', "a", False),  # inside of a string
        ("Content-Disposition: form-data; name=\"a\"; filename*=UTF-8''%e2%82%ac.png", "a", True),
        ('Content-Disposition: form-data;\r\n name="a";\r\n\tfilename="f"', "a", True),
        ('X-More: 1\r\nContent-Disposition: form-data; name="\u00fc"; filename="x.png"', "\u00fc", True),
    ],
)
def test_names_and_files(head: str, name: str, is_file: bool) -> None:
    [part] = parse_form(body((head, b"1")), TYPE)
    assert (part.name, part.is_file, bytes(part.data)) == (name, is_file, b"1")


@pytest.mark.parametrize("preamble", [b"", b"\r\n", b"This is a message in MIME format.\r\n", b"--other\r\n"])
@pytest.mark.parametrize("padding", [b"", b" ", b"\t \t"])
def test_a_preamble_and_padding_after_boundaries(preamble: bytes, padding: bytes) -> None:
    """RFC 2046, 5.1.1."""
    head = 'Content-Disposition: form-data; name="a"'
    contents = [b"1", b"not --b \r\n at the start of a line", b"\r\n--c \r\n"]
    raw = body(*((head, data) for data in contents))
    for boundary in (b"\r\n--b\r\n", b"\r\n--b--"):
        raw = raw.replace(
            boundary, boundary.rstrip(b"\r\n") + padding + (b"" if boundary.endswith(b"--") else b"\r\n")
        )
    raw = raw.replace(b"--b\r\n", b"--b" + padding + b"\r\n", 1)
    assert [bytes(part.data) for part in parse_form(preamble + raw, TYPE)] == contents


@settings(max_examples=60, deadline=None)
@given(contents=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_any_bytes_come_through_in_order(contents: list[bytes]) -> None:
    contents = [data.replace(b"--b", b"") for data in contents]
    head = 'Content-Disposition: form-data; name="a"; filename="f"'
    parts = parse_form(body(*((head, data) for data in contents)), TYPE)
    assert [bytes(part.data) for part in parts] == contents


@settings(max_examples=100, deadline=None)
@given(
    raw=st.binary(max_size=200), prefix=st.sampled_from([b"", b"--b\r\n", b"--b\r\nContent-Disposition: "])
)
def test_anything_else_is_malformed(raw: bytes, prefix: bytes) -> None:
    try:
        parse_form(prefix + raw, TYPE)
    except MalformedBody as error:
        assert error.message
