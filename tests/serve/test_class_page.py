"""The class view's page is whole, well-formed and asks nobody but its own server."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from lmcourse.serve.class_page import make_class_page
from lmcourse.serve.class_script import SCRIPT


def test_page_has_no_address_but_a_relative_one():
    page = make_class_page("tiny-chat")
    assert re.findall(r"""(?:href|src|action)=["']([^"']*)""", page) == ["data:,"]
    assert "http://" not in page
    assert "https://" not in page
    assert re.findall(r"fetch\(([^,]*)", page) == ["'../class'"]
    assert "@import" not in page
    assert "url(" not in page.partition("</style>")[0]


def test_script_puts_in_text_and_never_markup():
    for way_in in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "localStorage", "cookie"):
        assert way_in not in SCRIPT


def test_page_is_well_formed_and_escapes_the_model():
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "link", "input"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    page = make_class_page("<b>&")
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
