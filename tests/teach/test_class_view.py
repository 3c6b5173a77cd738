"""The live view against a server whose snapshot, key and presence the test decides."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lmcourse.errors import ConfigError, KeyRefusedError, ServerError
from lmcourse.teach import class_view
from tests.teach.class_snapshots import make_snapshot


class _Server:
    """`answers` come one after the other, the last again and again: a snapshot, or a status."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.keys = list(answers), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.keys.append(self.headers.get("Authorization"))
                found = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                status, body = (200, found) if isinstance(found, dict) else (found, {"error": {"message": "no"}})
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[_Server] = []

    def start(*answers: Any) -> _Server:
        servers.append(_Server(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def _until(condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "class view" in thread.name}


def test_view_follows_the_server_and_closes(rng: random.Random, serve: Any) -> None:
    first, second = (make_snapshot(rng, ["Ada", "<b>Ben"], num_busy=count) for count in (1, 2))
    server = serve(first, second)
    with class_view(server.url, "sk-secret", every_seconds=0.1) as view:
        state, table = view.widget.children
        assert "Live" in state.value
        assert 'aria-live="polite"' in state.value
        _until(lambda: "&lt;b&gt;Ben" in table.value)
        assert repr(view).startswith("2 of 2")
        data, metadata = view._repr_mimebundle_()
        assert data["image/png"].startswith(b"\x89PNG")
        assert metadata["image/png"]["alt"] == data["text/plain"] == view.drawing().alt
        assert "application/vnd.jupyter.widget-view+json" in data
    assert not view.running
    assert "Ended" in state.value
    assert set(server.keys) == {"Bearer sk-secret"}
    assert not any("secret" in text for text in (repr(view), state.value, table.value, data["text/plain"]))
    assert _threads() == set()
    view.close()


def test_view_ends_the_one_before(rng: random.Random, serve: Any) -> None:
    server = serve(make_snapshot(rng, ["Ada"], num_busy=1))
    before = class_view(server.url, every_seconds=0.1)
    with class_view(server.url, every_seconds=0.1, name="another class view"):
        with class_view(server.url, every_seconds=0.1) as after:
            assert not before.running
            assert after.running
        assert _threads() == {"another class view", "another class view: connection"}


@pytest.mark.parametrize(("status", "kind"), [(401, KeyRefusedError), (403, KeyRefusedError), (404, ServerError)])
def test_view_of_a_server_that_refuses_is_an_error(serve: Any, status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="no"):
        class_view(serve(status).url, "sk-x")
    assert _threads() == set()


def test_view_without_server_is_an_error(serve: Any) -> None:
    server = serve(404)
    server.close()
    with pytest.raises(ServerError):
        class_view(server.url)
    with pytest.raises(ConfigError, match="every_seconds"):
        class_view(server.url, every_seconds=0.0)


def test_view_waits_for_a_server_that_went_and_came_back(rng: random.Random, serve: Any) -> None:
    shown = make_snapshot(rng, ["Ada"], num_busy=1)
    server = serve(shown, 500)
    with class_view(server.url, every_seconds=0.1) as view:
        state, table = view.widget.children
        _until(lambda: "trying again" in state.value)
        assert "Ada" in table.value
        server.answers = [shown]
        _until(lambda: "Live again" in state.value)
        assert view.running


def test_view_ends_when_the_server_is_gone_or_refuses(rng: random.Random, serve: Any) -> None:
    shown = make_snapshot(rng, ["Ada"], num_busy=1)
    with class_view(serve(shown, 500).url, every_seconds=0.1, patience_seconds=0.3, name="gone: class view") as view:
        _until(lambda: not view.running)
        assert view.state.startswith("Ended")
    with class_view(serve(shown, 401).url, every_seconds=0.1) as view:
        _until(lambda: not view.running)
        assert "no" in view.state
