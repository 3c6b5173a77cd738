"""What goes wrong in a server's life: each fault is handled, and afterwards nothing runs and every block is free."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import openai
import pytest

from lmcourse.errors import MachineError
from lmcourse.serve.app import make_app
from lmcourse.serve.running import bind, running
from lmcourse.serve.settings import ServerSettings

CHAT = "/v1/chat/completions"


def body(**changes):
    """A request that would run for a thousand tokens if nothing ended it."""
    return {"model": "tiny-chat", "messages": "hi", "ignore_eos": True, **changes}


def until(condition, seconds=30.0):
    """Look until it holds, for so long of this process' own time: a machine that stood still counts as one look."""
    while not condition():
        assert seconds > 0, "the condition never came to hold"
        began = time.monotonic()
        time.sleep(0.002)
        seconds -= min(0.1, time.monotonic() - began)


def is_idle(pipe):
    stats = pipe.stats()
    return not stats.num_running and not stats.num_waiting and stats.num_free_blocks == stats.num_blocks


@pytest.fixture(autouse=True)
def nothing_is_left(server, pipe):
    """Conservation: after every test the engine is idle and consistent."""
    yield
    until(lambda: is_idle(pipe) and server.service.engine.num_open == 0)
    with pipe.dispatcher._lock:
        pipe.engine.check()


def raw_request(server, content, *, rcvbuf=None, path=CHAT):
    """A connection that has sent a request and read nothing."""
    connection = socket.socket()
    if rcvbuf:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", server.port))
    data = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_vanishes_frees_its_blocks(server, pipe, stream) -> None:
    connection = raw_request(server, body(stream=stream))
    until(lambda: pipe.stats().num_running == 1)
    if stream:
        assert connection.recv(10)
    steps = pipe.stats().num_steps
    connection.close()
    until(lambda: is_idle(pipe))
    assert pipe.stats().num_steps - steps < 900  # of some thousand that it asked for


def test_client_that_vanishes_from_the_queue_is_not_computed(server, pipe) -> None:
    places = pipe.engine.config.max_batch_size
    first = raw_request(server, body(n=places, stream=True))
    until(lambda: pipe.stats().num_running == places)
    second = raw_request(server, body(stream=True))
    until(lambda: pipe.stats().num_waiting == 1)
    second.close()
    until(lambda: pipe.stats().num_waiting == 0)
    assert pipe.stats().num_running == places
    first.close()


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/chat/interactive"])
def test_clients_that_leave_at_any_moment_leave_nothing(server, pipe, path) -> None:
    asked = {"prompt": "hi", "ignore_eos": True} if path != CHAT else body(n=3)
    asked |= {} if "interactive" in path else {"model": "tiny-chat"}
    for number in range(24):
        connection = raw_request(server, {**asked, "stream": number % 3 > 0}, path=path)
        time.sleep(0.004 * (number % 8))
        connection.close()
    until(lambda: server.service.engine.num_open == 0)


def test_half_closed_connection_counts_as_closed(server, pipe) -> None:
    connection = raw_request(server, body(stream=True))
    until(lambda: pipe.stats().num_running == 1)
    connection.shutdown(socket.SHUT_WR)
    until(lambda: is_idle(pipe))
    connection.close()


def test_openai_client_that_leaves_a_stream_aborts_it(client, pipe) -> None:
    stream = client.chat.completions.create(
        model="tiny-chat", messages=[{"role": "user", "content": "hi"}], stream=True, extra_body={"ignore_eos": True}
    )
    for _ in zip(range(3), stream, strict=False):
        pass
    stream.close()
    until(lambda: is_idle(pipe))


def test_slow_reader_stalls_nobody_and_gets_everything(server, http, pipe) -> None:
    asked = body(stream=True, logprobs=True, top_logprobs=20, n=2, max_tokens=150)
    slow = raw_request(server, asked, rcvbuf=4096)
    steps = pipe.stats().num_steps
    until(lambda: pipe.stats().num_steps > steps)
    expected = pipe("What is 17 + 25?").text
    for _ in range(3):
        answer = http.post(CHAT, json={"model": "tiny-chat", "messages": "What is 17 + 25?"})
        assert answer.json()["choices"][0]["message"]["content"] == expected
    until(lambda: is_idle(pipe), 60)  # its answers are finished although nobody has read them
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += slow.recv(1 << 20)
    slow.close()
    assert b"data: [DONE]" in received
    assert received.count(b'"finish_reason":"length"') == 2
    assert received.count(b'"top_logprobs"') == 2 * 150


@pytest.fixture
def poisoned(pipe):
    """While it lives, every step with this word's token fails without saying whose it is."""
    (token_id,) = pipe.tokenizer.encode(" Paris", add_bos=False)[:1]

    def fail(module, arguments):
        if (arguments[0] == token_id).any():
            raise ValueError("poison")

    hook = pipe.engine._runner.decoder.register_forward_pre_hook(fail)
    yield "I went to Paris"
    hook.remove()


def test_engine_error_fails_its_request_only(server, http, pipe, poisoned) -> None:
    sums = [f"What is {a} + 11?" for a in range(20, 28)]
    answers = {}

    def ask(text):
        answers[text] = http.post(CHAT, json={"model": "tiny-chat", "messages": text})

    threads = [threading.Thread(target=ask, args=(text,)) for text in [*sums[:4], poisoned, *sums[4:]]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers[poisoned].status_code == 500
    assert answers[poisoned].json()["error"]["type"] == "server_error"
    for text in sums:
        assert answers[text].json()["choices"][0]["message"]["content"] == pipe(text).text


def test_engine_error_in_a_stream_is_an_event(client, poisoned) -> None:
    with pytest.raises(openai.APIError, match="failed"):
        list(
            client.chat.completions.create(
                model="tiny-chat", messages=[{"role": "user", "content": poisoned}], stream=True
            )
        )


@pytest.mark.parametrize("grace", [0, 60])
def test_stop_under_load_finishes_or_returns_what_runs(pipe, grace) -> None:
    settings = ServerSettings(grace_seconds=grace)
    texts, refused, begun = {}, [], set()
    max_tokens = 80 if grace else 800  # the first may end before the last begins, but not where all are to be cut short
    with running(make_app(pipe, settings)) as server:

        def read(number):
            asked = body(stream=True, max_tokens=max_tokens)
            with httpx.stream("POST", server.url + CHAT, json=asked, timeout=300) as answer:
                begun.add(number)
                texts[number] = answer.read().decode()

        readers = [threading.Thread(target=read, args=(number,)) for number in range(12)]
        for reader in readers:
            reader.start()
        until(lambda: len(begun) == 12)
        server.should_exit = True
        until(lambda: server.service.draining)
        try:
            refused.append(httpx.post(server.url + CHAT, json=body(), timeout=10).status_code)
        except httpx.TransportError:
            refused.append(503)  # it does not even listen any more
    for reader in readers:
        reader.join(300)
    assert refused == [503]
    assert len(texts) == 12
    for text in texts.values():
        assert text.endswith("data: [DONE]\n\n")
        assert text.count('"finish_reason":"length"' if grace else '"finish_reason":"abort"') == 1
    assert pipe("What is 17 + 25?").text == "17 + 25 = 42."  # the pipeline is none the worse for it


def test_port_in_use_is_one_clear_error(server) -> None:
    with pytest.raises(MachineError, match=f"port {server.port} is in use"):
        bind("127.0.0.1", server.port)


def test_port_is_free_again_after_the_end(pipe) -> None:
    with running(make_app(pipe)) as server:
        port = server.port
    bind("127.0.0.1", port).close()


_HALF = b"POST /v1/encode HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", _HALF[:40], _HALF])
def test_half_requests_and_garbage_leave_it_well(server, http, sent) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(sent)
    assert http.get("/health").json() == {"status": "ok"}


def test_metrics_tell_the_load(server, http, pipe) -> None:
    def read():
        lines = (line for line in http.get("/metrics").text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    before = read()
    connection = raw_request(server, body(stream=True, n=2))
    until(lambda: pipe.stats().num_running == 2)
    during = read()
    connection.close()
    until(lambda: is_idle(pipe))
    http.post(CHAT, json={"model": "tiny-chat", "messages": "What is 17 + 25?"})
    after = read()
    assert during["lmcourse_requests_running"] == 2
    assert during["lmcourse_kv_blocks_used"] >= 2
    assert during["lmcourse_kv_blocks_total"] == pipe.stats().num_blocks
    assert after["lmcourse_requests_running"] == after["lmcourse_requests_waiting"] == 0
    assert after["lmcourse_kv_blocks_used"] == 0
    assert after["lmcourse_prefix_hit_ratio"] == 0
    for name in ("time_to_first_token", "time_per_output_token"):
        assert after[f"lmcourse_{name}_seconds_count"] > before[f"lmcourse_{name}_seconds_count"]
