"""/v1/chat/completions through the openai client, against what the pipeline says."""

from __future__ import annotations

import asyncio
import math

import openai
import pytest

from lmcourse import GenerationConfig
from lmcourse.serve.schema import ChatAnswer, ChatChunk

QUESTIONS = ["Hi, pls intro yourself", "上海是", "What is 17 + 25?", "What is the capital of France?"]


def ask(client, text, **settings):
    return client.chat.completions.create(model="tiny-chat", messages=[{"role": "user", "content": text}], **settings)


def test_penalties_and_biases_are_the_pipelines(client, pipe) -> None:
    hello = pipe("hi").token_ids[0]
    settings = {"presence_penalty": 0.5, "frequency_penalty": 2.0}
    expected = pipe("hi", max_new_tokens=12, logit_bias={hello: -100}, **settings)
    answer = ask(client, "hi", max_tokens=12, logit_bias={str(hello): -100}, **settings)
    assert answer.choices[0].message.content == expected.text
    assert hello not in expected.token_ids


@pytest.mark.parametrize("question", QUESTIONS)
def test_chat_is_the_pipelines_answer(client, pipe, question) -> None:
    expected = pipe(question)
    answer = ask(client, question)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == expected.input_token_len
    assert answer.usage.completion_tokens == expected.generate_token_len
    ChatAnswer.model_validate(answer.model_dump())


@pytest.mark.parametrize("question", QUESTIONS)
def test_stream_joined_is_the_whole_answer(client, pipe, question) -> None:
    chunks = list(ask(client, question, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks:
        ChatChunk.model_validate(chunk.model_dump(exclude_unset=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == pipe(question).text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == pipe(question).generate_token_len


def test_stream_ends_with_done(http) -> None:
    body = {"model": "tiny-chat", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")
    assert all(line.startswith("data: ") for line in answer.text.split("\n\n") if line)


def test_n_answers_with_a_seed_are_reproducible_and_differ(client) -> None:
    settings = dict(n=4, seed=7, temperature=1.5, max_tokens=12)
    first, again = (ask(client, "Tell me a joke", **settings) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert len(set(texts)) > 1
    streamed = [""] * 4
    for chunk in ask(client, "Tell me a joke", stream=True, **settings):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_stop_string_ends_the_answer(client, pipe) -> None:
    whole = pipe("Hi, pls intro yourself").text
    answer = ask(client, "Hi, pls intro yourself", stop=["model", "zzz"]).choices[0]
    assert answer.message.content == whole[: whole.index("model")]
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_cuts(client, name) -> None:
    answer = ask(client, "Hi, pls intro yourself", **{name: 3})
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_logprobs_are_the_engines(client, pipe) -> None:
    expected = pipe("上海是", GenerationConfig(logprobs=3))
    answer = ask(client, "上海是", logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == len(expected.token_ids)
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == expected.text
    for entry, token_id, report in zip(content, expected.token_ids, expected.logprobs, strict=True):
        assert math.isclose(entry.logprob, report[token_id], abs_tol=1e-3)
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
    streamed = [
        entry
        for chunk in ask(client, "上海是", logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in content]


def test_content_in_parts_and_developer_role_are_understood(client, pipe) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "17 + 25?"}]}
    ]
    answer = client.chat.completions.create(model="tiny-chat", messages=messages)
    assert answer.choices[0].message.content == pipe("What is 17 + 25?").text
    system = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "What is 17 + 25?"}]
    expected = pipe([{"role": "system", "content": "Be kind."}, system[1]]).text
    assert client.chat.completions.create(model="tiny-chat", messages=system).choices[0].message.content == expected


def test_async_clients_get_their_own_answers(server, pipe) -> None:
    sums = [f"What is {a} + {a + 3}?" for a in range(10, 42)]
    expected = [response.text for response in pipe(sums)]

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            answers = await asyncio.gather(*(ask(client, text) for text in sums))
        return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(main()) == expected


def test_unknown_model_is_404(client) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"
