"""The package's client against the real server: its logprobs are the pipeline's, by token id."""

from __future__ import annotations

import pytest

from lmcourse.client import Client
from lmcourse.config import GenerationConfig
from lmcourse.errors import ConfigError, PromptError

PROMPTS = ("上海是", {"prompt_token_ids": [1, 320, 77, 954]}, [{"role": "user", "content": "What is 3 plus 4?"}])


@pytest.fixture(scope="module")
def remote(server):
    with Client(server.url) as made:
        yield made


@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_client_logprobs_are_the_pipelines(remote, pipe, count) -> None:
    gen = GenerationConfig(max_new_tokens=12, logprobs=count)
    for local, far in zip(pipe(list(PROMPTS), gen), remote(list(PROMPTS), gen), strict=True):
        assert (far.text, far.token_ids, far.finish_reason) == (local.text, local.token_ids, local.finish_reason)
        assert len(far.logprobs) == len(far.token_ids)
        for here, there in zip(local.logprobs, far.logprobs, strict=True):
            assert there == pytest.approx(here, abs=1e-3)


def test_client_logprobs_come_piece_by_piece_and_for_each_of_n(remote) -> None:
    with remote.stream_infer("hello", n=2, temperature=0.9, random_seed=3, max_new_tokens=6, logprobs=2) as stream:
        pieces = list(stream)
    for index, answer in enumerate(stream.responses[0]):
        parts = [report for piece in pieces if piece.index == index for report in piece.logprobs or ()]
        assert answer.logprobs == parts
        assert len(parts) == len(answer.token_ids)
        assert all(token in report for token, report in zip(answer.token_ids, parts, strict=True))


def test_client_without_logprobs_has_none(remote) -> None:
    assert remote("hello", max_new_tokens=3).logprobs is None


def test_client_that_asks_for_more_than_the_server_gives_is_told(remote) -> None:
    with pytest.raises((ConfigError, PromptError), match="top_logprobs"):
        remote("hello", logprobs=21)


def test_tokens_named_by_id_reach_other_clients_too(client) -> None:
    named = {"extra_body": {"return_tokens_as_token_ids": True}}
    chat = client.chat.completions.create(
        model="tiny-chat", messages=[{"role": "user", "content": "hello"}], max_tokens=3, logprobs=True, top_logprobs=2,
        **named,
    ).choices[0]  # fmt: skip
    assert [entry.token for entry in chat.logprobs.content] == [f"token_id:{i}" for i in chat.token_ids]
    plain = client.completions.create(model="tiny-chat", prompt="One, two,", max_tokens=3, logprobs=2, **named).choices[
        0
    ]
    assert plain.logprobs.tokens == [f"token_id:{i}" for i in plain.token_ids]
    assert all(name.startswith("token_id:") for best in plain.logprobs.top_logprobs for name in best)
