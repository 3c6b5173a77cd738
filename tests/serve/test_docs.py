"""The docs page and the OpenAPI schema: complete, documented, and without any address outside."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from lmcourse.serve import docs_style


@pytest.fixture(scope="module")
def schema(http):
    return http.get("/openapi.json").json()


def test_page_has_no_address_but_relative_ones(http) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for url in re.findall(r"""(?:href|src|action)=["']([^"']*)""", page.text):
        assert url == "openapi.json" or url.startswith(("#", "data:")), url
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "@import" not in docs_style.STYLE


def test_page_shows_every_path_and_is_well_formed(http, schema) -> None:
    page = http.get("/").text
    for path in schema["paths"]:
        assert f"</b> {path}</h2>" in page

    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "link", "input"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open == []


def test_every_operation_documents_its_refusals(schema) -> None:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            statuses = set(operation["responses"])
            assert "422" not in statuses
            assert "200" in statuses
            assert path == "/health" or "401" in statuses
            if method == "post":
                assert statuses == {"200", "400", "401", "404", "413", "415", "429", "500", "503"}
                assert operation["requestBody"]["content"]["application/json"]["example"]


def test_examples_are_answered(http, schema) -> None:
    for path, methods in schema["paths"].items():
        if "post" in methods:
            example = methods["post"]["requestBody"]["content"]["application/json"]["example"]
            assert http.post(path, json=example).status_code == 200, path
