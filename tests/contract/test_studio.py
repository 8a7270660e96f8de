"""The page at `/`: who gets it, its files, and its headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from atelier_gateway.settings import NO_GENERATOR
from atelier_gateway.studio import CONTENT_TYPES, FOLDER, Studio
from atelier_runtime.settings import StartupError
from tests.contract.problem_body import problem
from tests.contract.raw_http import connect, received
from tests.contract.stack import Stack

CHROME = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7"
)
HTML = {"Accept": CHROME}
IMMUTABLE = "public, max-age=31536000, immutable"


def page_of(stack: Stack) -> httpx.Response:
    return stack.client.get("/", headers=HTML)


def exchanged(stack: Stack, target: str) -> bytes:
    """The response to a GET of a target as it stands, without Accept."""
    with connect(stack) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return received(connection)


def assets_of(page: str) -> list[str]:
    """The files that a page names, as addresses below its base."""
    return re.findall(r"""(?:src|href)="(?:\./)?(studio/[^"]+)""", page)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("accept", [CHROME, "text/html", "text/html, */*", "text/html, application/*;q=0.9"])
def test_browsers_get_the_page(stack: Stack, method: str, accept: str) -> None:
    response = stack.client.request(method, "/", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["vary"] == "Accept"
    assert response.content == b"" if method == "HEAD" else '<base href="/">' in response.text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html, application/json", "image/*", ""])
def test_everybody_else_gets_json(stack: Stack, method: str, accept: str) -> None:
    response = stack.client.request(method, "/", headers={"Accept": accept})
    assert response.status_code == 200 and response.headers["vary"] == "Accept"
    assert response.headers["content-type"] == "application/json"
    if method == "GET":
        assert response.json()["name"] == "Atelier"


def test_a_client_without_accept_gets_json(stack: Stack) -> None:
    assert b"content-type: application/json" in exchanged(stack, "/").lower()


def test_the_page_allows_nothing_from_elsewhere(stack: Stack) -> None:
    headers = page_of(stack).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    for kind in ("script", "style", "font", "connect", "manifest"):
        assert policy[f"{kind}-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    assert policy["base-uri"] == "'self'" and policy["form-action"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["permissions-policy"] == "camera=(), microphone=(), geolocation=()"


def test_the_page_is_asked_for_each_time_and_sent_once(stack: Stack) -> None:
    first = page_of(stack)
    assert first.headers["cache-control"] == "no-cache"
    known = {**HTML, "If-None-Match": first.headers["etag"]}
    again = stack.client.get("/", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"] and again.headers["vary"] == "Accept"
    assert stack.client.get("/", headers={**HTML, "If-None-Match": '"other"'}).status_code == 200
    other = stack.client.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert other.json()["name"] == "Atelier", "the JSON is another representation"


def test_the_files_of_the_page_are_kept_for_ever(stack: Stack) -> None:
    named = assets_of(page_of(stack).text)
    assert named
    for path in named:
        response = stack.client.get(f"/{path}")
        assert response.content == (FOLDER / path).read_bytes()
        assert response.headers["cache-control"] == IMMUTABLE
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-type"].partition(";")[0] == CONTENT_TYPES[Path(path).suffix]
        plain = {"Accept-Encoding": "identity"}
        head = stack.client.head(f"/{path}", headers=plain)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(response.content))
        assert head.headers.get("content-encoding") is None


def test_texts_of_the_page_are_compressed(stack: Stack) -> None:
    for path in assets_of(page_of(stack).text):
        head = stack.client.head(f"/{path}", headers={"Accept-Encoding": "gzip, deflate, br"})
        assert head.headers["content-encoding"] == "gzip" and head.headers["vary"] == "Accept-Encoding"
        if path.endswith(".js"):
            assert int(head.headers["content-length"]) < (FOLDER / path).stat().st_size / 2


@pytest.mark.parametrize(
    "target",
    [
        *("/studio", "/studio/", "/studio/nothing.js", "/studio/index.html", "/studio/../index.html"),
        *("/studio/../__init__.py", "/studio/%2e%2e/%2e%2e/__init__.py", "/studio/..%2f..%2f__init__.py"),
        *("/studio//etc/passwd", "/studio/%2fetc%2fpasswd", "/studio/..\\..\\__init__.py", "/studio/%00.js"),
    ],
)
def test_nothing_else_is_below_it(stack: Stack, target: str) -> None:
    answer = exchanged(stack, target)
    assert answer.startswith(b"HTTP/1.1 404 ") and b'"code":"not_found"' in answer.replace(b": ", b":")


def test_what_is_missing_is_said_as_everywhere(stack: Stack) -> None:
    problem(stack.client.get("/studio/nothing.js", headers=HTML), 404, "not_found")
    assert stack.client.post("/studio/nothing.js").status_code == 405


@pytest.fixture(scope="module")
def pageless() -> Iterator[Stack]:
    with Stack(studio=False) as stack:
        yield stack


def test_without_a_page_browsers_get_json_too(pageless: Stack) -> None:
    response = page_of(pageless)
    assert response.json()["name"] == "Atelier" and "vary" not in response.headers
    [path, *_] = assets_of((FOLDER / "index.html").read_text())
    problem(pageless.client.get(f"/{path}"), 404, "not_found")
    described = pageless.client.get("/openapi.json").json()["paths"]["/"]["get"]["responses"]["200"]
    assert list(described["content"]) == ["application/json"]


def test_a_gateway_that_only_restores_has_the_page_below_its_prefix() -> None:
    with Stack(generator=NO_GENERATOR, root_path="/images") as stack:
        for address in ("/", "/images", "/images/"):
            page = stack.client.get(address, headers=HTML)
            assert page.status_code == 200 and '<base href="/images/">' in page.text, address
        for path in assets_of(page.text):
            assert stack.client.get(f"/images/{path}").status_code == 200
        assert stack.client.get("/images/").json()["restores_only"] is True


def built(folder: Path, page: str = '<base href="/">') -> Path:
    (folder / "studio").mkdir()
    (folder / "index.html").write_text(page)
    return folder


def test_a_page_that_was_not_built_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"index\.html: No such file.*make studio"):
        Studio("", tmp_path)


@pytest.mark.parametrize("page", ["<p>no base</p>", '<base href="/"><base href="/">'])
def test_a_page_without_its_base_is_said_at_the_start(tmp_path: Path, page: str) -> None:
    with pytest.raises(StartupError, match="has not one <base"):
        Studio("", built(tmp_path, page))


def test_a_file_of_no_known_kind_is_said_at_the_start(tmp_path: Path) -> None:
    (built(tmp_path) / "studio" / "notes.txt").write_text("x")
    with pytest.raises(StartupError, match=r"notes\.txt: is none of"):
        Studio("", tmp_path)


def test_files_in_folders_have_their_kinds(tmp_path: Path) -> None:
    folder = built(tmp_path) / "studio" / "fonts"
    folder.mkdir()
    for suffix in CONTENT_TYPES:
        (folder / f"a{suffix}").write_bytes(b"1")
    studio = Studio("", tmp_path)
    for suffix, kind in CONTENT_TYPES.items():
        assert studio.asset(f"fonts/a{suffix}", None).headers["content-type"].startswith(kind)
