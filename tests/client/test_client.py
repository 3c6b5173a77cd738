"""Client against a server with OpenAI's shapes: answers, batches, sessions, and every refusal as one clear error."""

from __future__ import annotations

import gc
import socket
import threading
import time

import pytest

from lmcourse.client import Client
from lmcourse.config import GenerationConfig
from lmcourse.errors import (
    ConfigError,
    EngineClosedError,
    KeyRefusedError,
    PromptError,
    ServerBusyError,
    ServerError,
)


@pytest.fixture
def client(stand_in):
    with Client(stand_in.url) as made:
        yield made


def wait_until(holds, seconds=120.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_client_answers_one_prompt(client, stand_in) -> None:
    response = client("hi")
    assert response.text == stand_in.answer_of("hi")
    assert (response.input_token_len, response.generate_token_len, response.finish_reason) == (11, 22, "stop")
    assert stand_in.headers[0]["accept"] == "text/event-stream"


def test_client_answers_a_batch_in_order(client, stand_in) -> None:
    prompts = [f"prompt {n}" for n in range(40)]
    stand_in.seconds_per_word = 0.005
    responses = client(prompts, max_new_tokens=9)
    assert [response.text for response in responses] == [stand_in.answer_of(prompt) for prompt in prompts]
    assert [response.session_id for response in responses] == list(range(40))
    assert stand_in.most_in_flight > 1
    assert client([]) == []


def test_client_sends_no_more_at_once_than_allowed(stand_in) -> None:
    stand_in.seconds_per_word = 0.005
    with Client(stand_in.url, max_connections=3) as client:
        assert len(client(["a"] * 12)) == 12
    assert stand_in.most_in_flight <= 3


def test_stream_infer_gives_pieces_that_add_up(client, stand_in) -> None:
    with client.stream_infer("hi") as stream:
        pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == stand_in.answer_of("hi")
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert pieces[-1].generate_token_len == 22
    assert stream.responses[0].text == stand_in.answer_of("hi")


def test_stream_several_answers_to_one_prompt(client, stand_in) -> None:
    answers = client("hi", n=3, temperature=1.0)
    assert [answer.text for answer in answers] == [stand_in.answer_of("hi")] * 3
    assert [answer.index for answer in answers] == [0, 1, 2]


def test_closing_a_stream_closes_the_connection(client, stand_in) -> None:
    stand_in.seconds_per_word = 0.05
    with client.stream_infer(["one", "two"]) as stream:
        next(stream)
    wait_until(lambda: stand_in.abandoned == 2)
    assert list(stream) == []
    assert client("still there?").finish_reason == "stop"


def test_dropping_a_stream_closes_the_connection(client, stand_in) -> None:
    stand_in.seconds_per_word = 0.05
    next(client.stream_infer("one"))
    gc.collect()
    wait_until(lambda: stand_in.abandoned == 1)


def test_closing_the_client_ends_streams_of_other_threads(stand_in) -> None:
    stand_in.seconds_per_word = 0.2
    client, errors = Client(stand_in.url), []

    def listen() -> None:
        try:
            client("hi")
        except EngineClosedError as error:
            errors.append(error)

    listener = threading.Thread(target=listen)
    listener.start()
    wait_until(lambda: stand_in.in_flight == 1)
    client.close()
    client.close()
    listener.join(120)
    assert len(errors) == 1
    with pytest.raises(EngineClosedError, match="closed"):
        client("hi")


def test_chat_remembers(client, stand_in) -> None:
    session = client.chat("first")
    session = client.chat("second", session)
    sent = [message["content"] for message in stand_in.bodies[-1]["messages"]]
    assert sent == ["first", stand_in.answer_of("first"), "second"]
    assert session.response.text == stand_in.answer_of("second")
    assert len(session.history) == 2
    with Client(stand_in.url) as other, pytest.raises(ConfigError, match="another client"):
        other.chat("third", session)


def test_session_remembers_what_was_cut_short(client, stand_in) -> None:
    stand_in.seconds_per_word = 0.02
    session = client.session()
    with session.stream("hi") as stream:
        next(stream)
    assert session.messages[-1] == {"role": "assistant", "content": session.response.text}
    assert stand_in.answer_of("hi").startswith(session.response.text)


def test_prompts_take_every_form_of_the_pipeline(client, stand_in) -> None:
    client({"prompt_token_ids": [5, 6]})
    client("bare", do_preprocess=False)
    client([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}])
    assert [body.get("prompt", body.get("messages")) for body in stand_in.bodies] == [
        [5, 6], "bare", [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
    ]  # fmt: skip
    for wrong in ({"ids": [1]}, "", [{"content": "no role"}], ("text", object())):
        with pytest.raises(PromptError):
            client(wrong)


def test_settings_reach_the_server(client, stand_in) -> None:
    client("greedy")
    assert stand_in.bodies[-1]["temperature"] == 0
    assert set(stand_in.bodies[-1]) == {"model", "stream", "stream_options", "max_tokens", "temperature", "messages"}
    gen = GenerationConfig(max_new_tokens=3, top_p=0.5, top_k=7, random_seed=1, stop_words=["x"], ignore_eos=True)
    client("drawn", gen)
    expected = {
        "max_tokens": 3,
        "temperature": 1.0,
        "top_p": 0.5,
        "top_k": 7,
        "seed": 1,
        "stop": ["x"],
        "ignore_eos": True,
    }
    assert {name: stand_in.bodies[-1][name] for name in expected} == expected
    client("why", logprobs=3)
    assert {"logprobs": True, "top_logprobs": 3, "return_tokens_as_token_ids": True}.items() <= stand_in.bodies[
        -1
    ].items()
    client("why", logprobs=3, do_preprocess=False)
    assert {"logprobs": 3, "return_tokens_as_token_ids": True}.items() <= stand_in.bodies[-1].items()
    with pytest.raises(ConfigError, match="no setting"):
        client("what", temprature=1)


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        ("busy", ServerBusyError, "ask again in 7 s"),
        ("too long", PromptError, "prompt has 9 tokens"),
        ("bad setting", ConfigError, "top_p"),
        ("html", ServerError, "does not have that"),
        ("broken", ServerError, "engine died"),
        ("mid-stream error", ServerError, "engine died"),
        ("breaks off", ServerError, "broke off"),
    ],
)
def test_refusals_are_one_clear_error(client, stand_in, failure, kind, words) -> None:
    stand_in.failure = failure
    with pytest.raises(kind, match=words) as caught:
        client("hi")
    if kind is ServerBusyError:
        assert caught.value.retry_after_seconds == 7
    stand_in.failure = ""
    assert client("again").finish_reason == "stop"


def test_one_refusal_in_a_batch_ends_the_batch(client, stand_in) -> None:
    stand_in.failure = "busy"
    with pytest.raises(ServerBusyError):
        client(["a", "b", "c"])
    wait_until(lambda: stand_in.in_flight == 0)


def test_wrong_key_shows_at_once(stand_in) -> None:
    stand_in.key = "secret"
    for key in (None, "guess"):
        with pytest.raises(KeyRefusedError, match="wrong key"):
            Client(stand_in.url, key)
    with Client(stand_in.url, "secret") as client:
        assert client.models == ["stand-in", "other"]
    for impossible in ("", "two\nlines", "schlüssel"):
        with pytest.raises(ConfigError, match="cannot be a key"):
            Client(stand_in.url, impossible)


def test_dead_address_shows_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(ServerError, match="no server answers") as caught:
        Client(dead)
    assert dead in str(caught.value)
    assert "serve api_server" in str(caught.value)


def test_a_server_of_something_else_is_told(stand_in) -> None:
    stand_in.failure = "not json"
    with pytest.raises(ServerError, match="something else than JSON"):
        Client(stand_in.url)


def test_model_is_chosen_by_name(stand_in) -> None:
    with Client(stand_in.url, model="other") as client:
        client("hi")
    assert stand_in.bodies[-1]["model"] == "other"
    with pytest.raises(ConfigError, match="stand-in, other"):
        Client(stand_in.url, model="third")


def test_address_with_v1_and_slash_is_understood(stand_in) -> None:
    for address in (stand_in.url + "/", stand_in.url + "/v1", f" {stand_in.url}/v1/ "):
        with Client(address) as client:
            assert client.url == stand_in.url
    for wrong in ("", "localhost:23333", "ftp://x", "http://", "http://host:notaport", "http://h/?q=1"):
        with pytest.raises(ConfigError, match="not a server's address"):
            Client(wrong)


def test_addresses_of_this_machine_ignore_the_proxy_of_the_environment(stand_in, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Client(stand_in.url) as client:
        assert client("hi").finish_reason == "stop"


def test_dropped_clients_leave_no_thread(stand_in) -> None:
    before = threading.active_count()
    for _ in range(3):
        Client(stand_in.url)("hi")
    gc.collect()
    wait_until(lambda: threading.active_count() <= before)
