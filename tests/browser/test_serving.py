"""Lesson 5's pages in a browser, through JupyterLab's proxy: the chat page streams two turns, the docs page shows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.browser
TURNS = ("please provide three suggestions about time management", "What is 48 + 37?")


@pytest.fixture(scope="module")
def services() -> Iterator[dict[str, int]]:
    """Ports of an API server and of a chat page over it, started as users start them."""
    server = _start("api_server", "tiny-chat", "--server-port", "0")
    try:
        url = _first_url(server)
        page = _start("gradio", url, "--server-port", "0")
        try:
            yield {"api_server": _port(url), "gradio": _port(_first_url(page))}
        finally:
            _stop(page)
    finally:
        _stop(server)


def _start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lmcourse", "serve", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _first_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        for word in line.split():
            if word.startswith("http://"):
                return word.strip(",;")
    raise AssertionError("the service ended without an address")


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.communicate(timeout=60)


def _open_proxied(page, lab, port: int) -> list[str]:  # type: ignore[no-untyped-def]
    """Go to a port through JupyterLab; gives the list that every address the page asks for is added to."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://127.0.0.1:{lab.port}/proxy/{port}/?token={lab.token}", wait_until="domcontentloaded")
    return asked


def _hosts(asked: list[str]) -> set[str]:
    return {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}


@pytest.fixture
def screenshot(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """images/chat_page.png is made by: pytest tests/browser/test_serving.py --screenshots-to images"""
    chosen: Path | None = request.config.getoption("screenshots_to")
    return (chosen or tmp_path) / "chat_page.png"


# notes every length that the newest answer has had in the page
WATCH = """() => {
    window.lengths = new Set();
    new MutationObserver(() => {
        const answers = document.querySelectorAll(".message.bot");
        if (answers.length) window.lengths.add(answers[answers.length - 1].innerText.length);
    }).observe(document.body, {childList: true, subtree: true, characterData: true});
}"""


def test_chat_page_streams_two_turns_through_the_proxy(lab, page, services, screenshot: Path) -> None:
    asked = _open_proxied(page, lab, services["gradio"])
    box = page.get_by_placeholder("Your message")
    box.wait_for(timeout=60_000)
    page.evaluate(WATCH)
    for turn, question in enumerate(TURNS, start=1):
        box.fill(question)
        box.press("Enter")
        _wait_for_answer(page, turn)
        assert box.input_value() == ""
    assert page.locator(".message.bot").nth(1).inner_text().strip() == "48 + 37 = 85."
    assert page.locator(".message.user").count() == 2
    assert len(page.evaluate("[...window.lengths]")) > 3, "the answers came in one piece"
    page.screenshot(path=screenshot, clip={"x": 190, "y": 0, "width": 1020, "height": 840})
    assert _hosts(asked) == {f"127.0.0.1:{lab.port}"}

    page.get_by_role("button", name="Regenerate").click()
    page.wait_for_timeout(500)
    _wait_for_answer(page, 2)
    assert page.locator(".message.user").count() == 2
    page.get_by_role("button", name="New conversation").click()
    page.locator(".message.bot").first.wait_for(state="detached", timeout=10_000)


def _wait_for_answer(page, number: int) -> None:  # type: ignore[no-untyped-def]
    """Until the answer of that number is there and complete."""
    page.locator(".message.bot").nth(number - 1).wait_for(timeout=60_000)
    page.get_by_role("button", name="Stop", disabled=True).wait_for(timeout=60_000)


def test_stop_ends_an_answer_in_the_middle(lab, page, services) -> None:
    _open_proxied(page, lab, services["gradio"])
    box = page.get_by_placeholder("Your message")
    box.wait_for(timeout=60_000)
    box.fill("Tell me a story about a lighthouse.")
    box.press("Enter")
    page.get_by_role("button", name="Stop", disabled=False).click(timeout=30_000)
    page.locator("#status").get_by_text("; stopped").wait_for(timeout=30_000)


def test_docs_page_shows_without_the_internet(lab, page, services, tmp_path: Path) -> None:
    asked = _open_proxied(page, lab, services["api_server"])
    page.get_by_text("/v1/chat/completions").first.wait_for(timeout=30_000)
    page.screenshot(path=tmp_path / "docs_page.png")
    assert _hosts(asked) == {f"127.0.0.1:{lab.port}"}
