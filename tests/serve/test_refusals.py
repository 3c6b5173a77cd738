"""What is refused, and that every refusal has the one form and leaves the server well."""

from __future__ import annotations

import gzip
import json

import httpx
import pytest

from lmcourse.serve.app import make_app
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings

HI = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


def body(**changes):
    return {"model": "tiny-chat", "messages": HI, "max_tokens": 2, **changes}


def refused(answer, status):
    """Checks the form of a refusal and gives what it says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop.0"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"bad_words": ["this is no single token"]}, "bad_words"),
        ({"top_logprobs": 2}, None),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, None),
        ({"messages": []}, "messages"),
        ({"messages": ""}, "messages"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "system", "content": "be kind"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None),
        ({"messages": [{"role": "user", "content": "half \ud800 a pair"}]}, None),
        ({"model": None}, "model"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"logit_bias": {"hello": 1}}, "logit_bias.hello"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_wrong_values_are_400_and_named(http, changes, param) -> None:
    content = json.dumps(body(**changes))
    error = refused(http.post(CHAT, content=content, headers={"content-type": "application/json"}), 400)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b'{"model": "\xff"}', b"[" * 100_000, b'{"model": NaN}', b"1" * 5000,
     b'{"model": "tiny-chat", "messages": "hi", "temperature": NaN}',
     b'{"model": "tiny-chat", "messages": "hi", "temperature": 1e999}'],
    ids=lambda content: repr(content[:40]),
)  # fmt: skip
def test_bodies_that_are_no_request_are_400(http, content) -> None:
    refused(http.post(CHAT, content=content, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_other_content_types_are_415(http, kind) -> None:
    refused(http.post(CHAT, content=json.dumps(body()), headers={"content-type": kind}), 415)


def test_packed_bodies_are_415_and_unreadable_ones_400(http) -> None:
    packed = gzip.compress(json.dumps(body()).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert "gzip" in refused(http.post(CHAT, content=packed, headers=headers), 415)["message"]
    broken = http.post(CHAT, content=b'{"model": "\xff"}', headers={"content-type": "application/json"})
    assert "UTF-8" in refused(broken, 400)["message"]


def test_unknown_keys_are_refused_unless_they_are_null(http) -> None:
    assert refused(http.post(CHAT, json=body(thinking=True)), 400)["param"] == "thinking"
    said = {"role": "assistant", "content": "Hello", "reasoning_content": None, "audio": None}
    assert http.post(CHAT, json=body(messages=[*HI, said, *HI], thinking=None)).status_code == 200
    assert refused(http.post(CHAT, json=body(messages=[*HI, {**said, "reasoning_content": "x"}, *HI])), 400)


MANY = 50_000
LONG = [
    ("/v1/completions", {"prompt": [[5]] * MANY}, "prompt"),
    ("/v1/completions", {"prompt": [None] * MANY}, "prompt.0"),
    (CHAT, {"messages": [None] * MANY}, "messages.0"),
    (CHAT, {"messages": [{"role": "assistant", "content": ""}] * MANY}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * MANY}]}, "messages.0.content"),
    (CHAT, {"messages": HI, "stop": ["zq"] * MANY}, "stop"),
    (CHAT, {"messages": HI, "bad_words": ["a"] * MANY}, "bad_words"),
    ("/v1/encode", {"input": ["a"] * MANY}, "input"),
    ("/v1/encode", {"input": "x" * (2**20 + 1)}, "input"),
    ("/v1/chat/interactive", {"prompt": HI * MANY}, "prompt"),
]


@pytest.mark.parametrize(("path", "changes", "param"), LONG, ids=range(len(LONG)))
def test_lists_that_would_keep_others_waiting_are_400(http, path, changes, param) -> None:
    named = {"model": "tiny-chat"} if "completions" in path else {}
    assert refused(http.post(path, json={**named, **changes}), 400)["param"] == param


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, {"enum": []}, {"not": {}}]
)
def test_schemas_that_nothing_fits_are_400(http, schema) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    error = refused(http.post(CHAT, json=body(response_format=form)), 400)
    assert error["param"] == "response_format"
    assert "\n<state>" not in error["message"]


def test_more_answers_than_the_queue_takes_are_refused_before_they_are_read(http) -> None:
    asked = {"model": "tiny-chat", "prompt": ["x" * 10_000] * 2000, "max_tokens": 1}
    assert refused(http.post("/v1/completions", json=asked), 429)["code"] == "queue_full"


def test_unknown_model_and_path_are_404(http) -> None:
    for name in ("nope", "half \ud83d"):
        sent = http.post(CHAT, content=json.dumps(body(model=name)), headers={"content-type": "application/json"})
        assert sent.status_code in (400, 404)
        assert refused(sent, sent.status_code)["param"] == "model"
    assert refused(http.get("/v1/models/nope"), 404)["code"] == "model_not_found"
    refused(http.get("/v1/nope"), 404)
    refused(http.get(CHAT), 405)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/chat/interactive"])
def test_too_long_prompts_are_400(http, path) -> None:
    for text in ("word " * 1500, "x" * 10_000_000):
        sent = {"prompt": text} if path != CHAT else {"messages": [{"role": "user", "content": text}]}
        error = refused(http.post(path, json={**sent, **({} if "inter" in path else {"model": "tiny-chat"})}), 400)
        assert error["code"] == "context_length_exceeded"
        assert "too long" in error["message"]
    assert http.post(CHAT, json=body()).status_code == 200


def test_too_large_bodies_are_413(http) -> None:
    refused(http.post(CHAT, json=body(user="x" * 33 * 2**20)), 413)

    def pieces():
        for _ in range(40):
            yield b" " * 2**20

    refused(http.post(CHAT, content=pieces(), headers={"content-type": "application/json"}), 413)
    assert http.post(CHAT, json=body()).status_code == 200


def test_max_tokens_beyond_the_session_is_cut(http) -> None:
    answer = http.post(CHAT, json=body(messages="word " * 700, max_tokens=10**9, ignore_eos=True)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 1024


def test_keys(pipe) -> None:
    with running(make_app(pipe, ServerSettings(api_keys=("one", "two")))) as server, httpx.Client() as http:
        for header in ({}, {"Authorization": "Bearer three"}, {"Authorization": "one"}, {"Authorization": "Basic one"}):
            error = refused(http.get(f"{server.url}/v1/models", headers=header), 401)
            assert error["type"] == "authentication_error"
            refused(http.post(f"{server.url}{CHAT}", json=body(), headers=header), 401)
            refused(http.get(f"{server.url}/metrics", headers=header), 401)
        for key in ("one", "two"):
            header = {"Authorization": f"Bearer {key}"}
            assert http.get(f"{server.url}/v1/models", headers=header).status_code == 200
            assert http.post(f"{server.url}{CHAT}", json=body(), headers=header).status_code == 200
        assert http.get(f"{server.url}/health").json() == {"status": "ok"}
        assert http.get(f"{server.url}/").status_code == 200


def test_browsers_may_ask_from_listed_origins_only(pipe) -> None:
    with running(make_app(pipe, ServerSettings(allow_origins=("http://good.example",)))) as server:
        for origin, allowed in (("http://good.example", True), ("http://bad.example", False)):
            asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = httpx.options(f"{server.url}{CHAT}", headers=asks)
            assert ("access-control-allow-origin" in answer.headers) is allowed


def test_full_queue_is_429_with_a_time(pipe) -> None:
    settings = ServerSettings(max_queue=2, grace_seconds=0)
    with running(make_app(pipe, settings)) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        places = pipe.engine.config.max_batch_size
        answer = http.post(CHAT, json=body(n=places + 3))
        assert refused(answer, 429)["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) >= 1
        assert len(http.post(CHAT, json=body(n=places + 2)).json()["choices"]) == places + 2
