"""Paths: what clients write is found, and what cannot be is explained."""

from __future__ import annotations

import pytest

from lmcourse.serve.paths import explain_missing


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models//"])
def test_slashes_too_many_do_no_harm(http, path) -> None:
    found = http.get(str(http.base_url).rstrip("/") + path)  # whole: httpx would take //v1 for a host
    assert found.json() == http.get("/v1/models").json()


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/metrics"])
def test_head_is_get_without_a_body(http, path) -> None:
    head, got = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert got.content


def test_a_posts_path_ends_in_a_slash_too(http) -> None:
    asked = {"model": "tiny-chat", "messages": "hi", "max_tokens": 2}
    assert http.post("/v1/chat/completions/", json=asked).status_code == 200
    assert http.head("/v1/chat/completions").status_code == 405


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "/models"])
def test_a_base_url_without_v1_or_with_two_is_told(http, path) -> None:
    answer = http.post(path, json={})
    assert answer.status_code == 404
    assert "base_url" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nope", "/v1/models/a/b", "/v2/models"])
def test_other_paths_are_simply_not_there(path) -> None:
    assert "base_url" not in explain_missing(path)
