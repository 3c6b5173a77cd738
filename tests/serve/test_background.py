"""Servers that a notebook starts, stops, and starts again."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from lmcourse import Pipeline, pipeline
from lmcourse.errors import MachineError, ServerError
from lmcourse.serve.background import BackgroundServer, serve_in_background


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = threading.active_count()
    yield
    seconds = 60.0
    while threading.active_count() > before and seconds > 0:  # of earlier tests, some may end meanwhile
        time.sleep(0.01)
        seconds -= 0.01
    assert threading.active_count() <= before


def closed_pipes(monkeypatch) -> list[Pipeline]:
    """Pipelines, as they are closed."""
    closed, close = [], Pipeline.close
    monkeypatch.setattr(Pipeline, "close", lambda pipe: (closed.append(pipe), close(pipe))[1])
    return closed


def test_server_answers_while_its_block_lasts(monkeypatch) -> None:
    closed = closed_pipes(monkeypatch)
    with serve_in_background("tiny-chat") as server:
        assert server.running
        with server.client() as client:
            assert client("hello").finish_reason in ("stop", "length")
        port, url = server.port, server.url
        assert closed == []
    assert not server.running
    assert len(closed) == 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
    with pytest.raises(ServerError, match="no server answers"):
        server.client()
    assert str(port) not in repr(server)
    assert url not in server._repr_html_()


def test_running_the_cell_again_frees_the_first(monkeypatch) -> None:
    closed = closed_pipes(monkeypatch)
    first = serve_in_background("tiny-chat")
    second = serve_in_background("tiny-chat", port=first.port)
    assert (first.running, second.running, len(closed)) == (False, True, 1)
    with serve_in_background("tiny-chat", name="another") as other:
        assert second.running
        assert other.port != second.port
    second.close()
    second.close()
    assert len(closed) == 3


def test_pipeline_of_the_caller_stays_open() -> None:
    with pipeline("tiny-chat") as pipe:
        with serve_in_background(pipe) as server, server.client() as client:
            served = client("What is 48 + 37?").text
        assert pipe("What is 48 + 37?").text == served


def test_failed_start_leaves_nothing(monkeypatch) -> None:
    closed = closed_pipes(monkeypatch)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(MachineError, match="in use"):
            serve_in_background("tiny-chat", port=other.getsockname()[1])
    with pytest.raises(FileNotFoundError):
        serve_in_background("no-such-model")
    assert closed == []


def test_link_leads_through_the_proxy_inside_jupyter(monkeypatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    with serve_in_background("tiny-chat") as server:
        assert isinstance(server, BackgroundServer)
        assert server.proxied_path == f"/user/ann/proxy/{server.port}/"
        assert f'href="/user/ann/proxy/{server.port}/"' in server._repr_html_()
