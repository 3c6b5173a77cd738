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


@pytest.fixture
def asked(page) -> Iterator[list[str]]:
    """Every address that the page asks for."""
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    yield addresses
    page.remove_listener("request", lambda request: None) if False else None


@pytest.fixture
def screenshot(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """images/chat_page.png is made by: pytest tests/browser/test_serving.py --screenshot-to images/chat_page.png"""
    chosen: Path | None = request.config.getoption("screenshot_to")
    return chosen or tmp_path / "chat_page.png"
