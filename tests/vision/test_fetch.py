"""Pictures behind URLs: limits of size, time and redirects; nothing inside for strangers."""

from __future__ import annotations

import http.server
import io
import threading
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from lmcourse.errors import PromptError
from lmcourse.vision import fetch as fetch_module
from lmcourse.vision.images import load_image


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), "green").save(file, "PNG")
    return file.getvalue()


class Site(http.server.BaseHTTPRequestHandler):
    """A host with some bad habits."""

    def do_GET(self) -> None:
        path = self.path
        if path.startswith("/loop"):
            return self._redirect("/loop")
        if path.startswith("/to?"):
            return self._redirect(path[4:])
        if path == "/slow":
            return self._trickle()
        if path == "/missing":
            return self.send_error(404)
        body = b"x" * (33 * 2**20) if path == "/huge" else picture()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return self.wfile.write(body)

    def _redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.end_headers()

    def _trickle(self) -> None:
        try:
            for letter in b"HTTP/1.0 200 OK\r\n" + b"X-Slow: 1\r\n" * 400:
                self.wfile.write(bytes([letter]))
                time.sleep(0.05)
        except OSError:
            return

    def log_message(self, *_) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients leave early here
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_url_is_fetched(site) -> None:
    assert load_image(f"{site}/a.png?size=big#top").size == (9, 7)
    assert load_image(f"{site}/to?/b.png").size == (9, 7)
    assert load_image(f"{site}/to?{site}/图.png").size == (9, 7)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/loop", "redirects"),
        ("/huge", "too big"),
        ("/missing", "404"),
        ("/to?file:///etc/hostname", "not an http"),
        ("/to?http://no-such-host.invalid/x.png", "not known"),
    ],
)
def test_fetching_has_limits(site, path, what) -> None:
    with pytest.raises(PromptError, match=what):
        load_image(site + path)


def test_time_is_limited_even_for_a_trickle(site) -> None:
    began = time.monotonic()
    with pytest.raises(PromptError, match="in time"):
        load_image(f"{site}/slow", timeout_seconds=0.5)
    assert time.monotonic() - began < 100  # all of it would take three minutes and a half


def test_nobody_there_is_an_error() -> None:
    with pytest.raises(PromptError, match="cannot be fetched") as caught:
        load_image("http://me:secret@127.0.0.1:1/x.png")
    assert caught.value.where == "http://127.0.0.1:1/x.png"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "10.1.2.3", "192.168.0.1", "172.16.3.4", "169.254.169.254",
     "[fe80::1]", "[::ffff:127.0.0.1]", "[fd00::1]", "100.64.0.1", "224.0.0.1", "2130706433", "0x7f.1"],
)  # fmt: skip
def test_addresses_inside_are_refused_for_strangers(host) -> None:
    with pytest.raises(PromptError, match=r"may not be fetched|not known"):
        load_image(f"http://{host}:9/x.png", over_network=True)


def test_redirect_to_the_inside_is_refused(site, monkeypatch) -> None:
    """The first hop counts as public here, so that the second is what is looked at."""
    looked_at = []
    real = fetch_module._is_public
    monkeypatch.setattr(fetch_module, "_is_public", lambda a: looked_at.append(a) or len(looked_at) == 1 or real(a))
    with pytest.raises(PromptError, match="may not be fetched"):
        load_image(f"{site}/to?{site}/a.png", over_network=True)
    assert len(looked_at) == 2
