"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import re

import pytest

from tests.contract.stack import Stack

PHOTO_PATHS = ["/restore", "/detect", "/compare"]


def test_the_docs_page_needs_no_network(stack: Stack) -> None:
    page = stack.client.get("/docs").text
    assert "http://" not in page and "https://" not in page
    linked = re.findall(r"""(?:src|href)="(/[^"]+)""", page)
    assert {link.rsplit(".", 1)[1] for link in linked} == {"js", "css", "png"}
    for link in linked:
        assert stack.client.get(link).status_code == 200


def test_the_examples_of_generate_are_served(stack: Stack) -> None:
    operation = stack.client.get("/openapi.json").json()["paths"]["/generate"]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    assert all("description" in field for field in body["schema"]["properties"].values())
    for example in body["examples"].values():
        request = {**example["value"], "width": 256, "height": 256}
        assert stack.client.post("/generate", json=request).status_code == 200


def test_the_examples_of_openais_interface_are_served(stack: Stack) -> None:
    paths = stack.client.get("/openapi.json").json()["paths"]
    for path in ("/v1/images/generations", "/v1/images/edits"):
        content = paths[path]["post"]["requestBody"]["content"]
        for kind in content.values():
            assert all("description" in field for field in kind["schema"]["properties"].values())
        for example in content["application/json"].get("examples", {}).values():
            request = {**example["value"], "size": "256x256"}
            assert stack.client.post(path, json=request).status_code == 200


@pytest.mark.parametrize("path", PHOTO_PATHS)
def test_the_examples_of_the_photo_routes_are_served(stack: Stack, path: str) -> None:
    operation = stack.client.get("/openapi.json").json()["paths"][path]["post"]
    content = operation["requestBody"]["content"]
    for kind in content.values():
        assert all("description" in field for field in kind["schema"]["properties"].values())
    for example in content["application/json"]["examples"].values():
        response = stack.client.post(path, json=example["value"])
        assert response.status_code == 200, response.text


def test_the_examples_of_automatic1111s_dialect_are_served(stack: Stack) -> None:
    paths = stack.client.get("/openapi.json").json()["paths"]
    served = 0
    for path, operations in paths.items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        if not path.startswith("/sdapi/v1/") or "examples" not in content.get("application/json", {}):
            continue
        body = content["application/json"]
        assert all("description" in field for field in body["schema"]["properties"].values())
        for example in body["examples"].values():
            response = stack.client.post(path, json=example["value"])
            assert response.status_code == 200, response.text
            served += 1
    assert served == 6


@pytest.mark.parametrize("root_path", ["/images", "/images/v1/"])
def test_behind_a_path_prefix(root_path: str) -> None:
    """Some proxies remove the prefix, some do not; a page's links always have it."""
    with Stack(root_path=root_path) as stack:
        prefix = root_path.rstrip("/")
        assert stack.client.get(prefix).status_code == stack.client.get(prefix + "/").status_code == 200
        for path in ("/livez", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css"):
            for given in (path, prefix + path):
                assert stack.client.get(given).status_code == 200, given
        page = stack.client.get("/docs").text
        assert f"'{prefix}/openapi.json'" in page and f'"{prefix}/docs/assets/swagger-ui.css"' in page
        assert stack.client.get("/openapi.json").json()["servers"] == [{"url": prefix}]
        body = {"prompt": "x", "width": 256, "height": 256}
        answers = [stack.client.post(given + "/generate", json=body).json() for given in ("", prefix)]
        assert answers[0].keys() == answers[1].keys()
        assert stack.client.get(prefix + "/nowhere").json()["error"]["code"] == "not_found"
        assert stack.client.get(prefix + "s/livez").status_code == 404
