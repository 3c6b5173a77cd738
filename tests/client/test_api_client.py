"""APIClient: LMDeploy 0.3.0's methods against a server with its endpoints."""

from __future__ import annotations

import pytest

from lmcourse.client import APIClient
from lmcourse.errors import ConfigError, ServerBusyError, ServerError


@pytest.fixture
def client(stand_in):
    with APIClient(stand_in.url) as made:
        yield made


def test_available_models_are_those_of_the_server(client) -> None:
    assert client.available_models == ["stand-in", "other"]


def test_encode_gives_ids_and_length(client) -> None:
    assert client.encode("hé") == ([104, 195, 169], 3)


def test_chat_completions_come_whole_or_in_chunks(client, stand_in) -> None:
    model = client.available_models[0]
    (whole,) = client.chat_completions_v1(model=model, messages=[{"role": "user", "content": "hi"}])
    assert whole["choices"][0]["message"]["content"] == stand_in.answer_of("hi")
    assert stand_in.bodies[-1]["max_tokens"] == 512
    chunks = list(client.chat_completions_v1(model, [{"role": "user", "content": "hi"}], stream=True, stop=["x"]))
    texts = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == stand_in.answer_of("hi")
    assert stand_in.bodies[-1]["stop"] == ["x"]


def test_completions_come_whole_or_in_chunks(client, stand_in) -> None:
    (whole,) = client.completions_v1("stand-in", "once upon")
    assert whole["choices"][0]["text"] == stand_in.answer_of("once upon")
    chunks = list(client.completions_v1("stand-in", "once upon", stream=True))
    assert "".join(c["text"] for chunk in chunks for c in chunk["choices"]) == stand_in.answer_of("once upon")


def test_chat_is_remembered_by_the_server(client, stand_in) -> None:
    assert list(client.chat("one", session_id=7)) == [("one", 2, "stop")]
    assert [text for text, *_ in client.chat("two", session_id=7, stream=True)] == ["one and two", ""]
    client.end_session(7)
    assert stand_in.history == {}
    with pytest.raises(ConfigError, match="needs a number"):
        list(client.chat("hi", session_id=-1))


def test_errors_reach_the_caller(client, stand_in) -> None:
    stand_in.failure = "busy"
    for stream in (False, True):
        with pytest.raises(ServerBusyError):
            list(client.chat_completions_v1("stand-in", "hi", stream=stream))
    stand_in.failure = "breaks off"
    with pytest.raises(ServerError, match="broke off"):
        list(client.completions_v1("stand-in", "hi", stream=True))


def test_leaving_a_stream_early_is_fine(client, stand_in) -> None:
    stand_in.seconds_per_word = 0.02
    chunks = client.completions_v1("stand-in", "hi", stream=True)
    next(chunks)
    chunks.close()
    assert list(client.completions_v1("stand-in", "hi"))
