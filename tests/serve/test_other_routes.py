"""/v1/completions, /v1/encode, /v1/chat/interactive, /v1/models against the pipeline."""

from __future__ import annotations

import json

import openai
import pytest

from lmcourse.serve.app import make_app
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings


def test_completions_go_on_without_a_template(client, pipe) -> None:
    with pipe.stream_infer("Shanghai is", max_new_tokens=12, do_preprocess=False) as stream:
        list(stream)
        expected = stream.responses[0]
    answer = client.completions.create(model="tiny-chat", prompt="Shanghai is", max_tokens=12)
    assert answer.choices[0].text == expected.text
    assert answer.usage.completion_tokens == expected.generate_token_len
    echoed = client.completions.create(model="tiny-chat", prompt="Shanghai is", max_tokens=12, echo=True)
    assert echoed.choices[0].text == "Shanghai is" + expected.text
    ids = pipe.tokenizer.encode("Shanghai is", add_bos=pipe.template.adds_bos and pipe.tokenizer.adds_bos)
    by_ids = client.completions.create(model="tiny-chat", prompt=ids, max_tokens=12)
    assert by_ids.choices[0].text == expected.text


def test_completions_of_several_prompts_keep_their_places(client) -> None:
    prompts = ["One, two,", "上海是", "The course"]
    alone = [client.completions.create(model="tiny-chat", prompt=p, max_tokens=8).choices[0].text for p in prompts]
    answer = client.completions.create(model="tiny-chat", prompt=prompts, max_tokens=8, n=2)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert [choice.text for choice in answer.choices] == [text for text in alone for _ in range(2)]
    streamed = [""] * 6
    for chunk in client.completions.create(model="tiny-chat", prompt=prompts, max_tokens=8, n=2, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == [text for text in alone for _ in range(2)]


def test_completion_logprobs_are_parallel_lists(client) -> None:
    answer = client.completions.create(model="tiny-chat", prompt="One, two,", max_tokens=6, logprobs=2).choices[0]
    report = answer.logprobs
    assert "".join(report.tokens) == answer.text
    assert len(report.tokens) == len(report.token_logprobs) == len(report.top_logprobs) == len(report.text_offset)
    assert report.text_offset[0] == 0
    assert all(value <= 0 for value in report.token_logprobs)


@pytest.mark.parametrize("text", ["Hi, pls intro yourself", "上海是", ""])
def test_encode_is_the_tokenizers(http, pipe, text) -> None:
    for add_bos in (True, False):
        ids = pipe.tokenizer.encode(text, add_bos=add_bos and pipe.tokenizer.adds_bos)
        assert http.post("/v1/encode", json={"input": text, "add_bos": add_bos}).json() == {
            "input_ids": ids, "length": len(ids),
        }  # fmt: skip
    both = http.post("/v1/encode", json={"input": [text, "hi"]}).json()
    assert both["length"] == [len(ids) for ids in both["input_ids"]]
    wrapped = http.post("/v1/encode", json={"input": "hi", "do_preprocess": True}).json()
    assert wrapped["length"] == pipe("hi", max_new_tokens=1).input_token_len


def turn(http, text, **settings):
    answer = http.post("/v1/chat/interactive", json={"prompt": text, "session_id": 7, **settings})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_interactive_remembers_until_told_otherwise(http, pipe) -> None:
    session = pipe.chat("My name is Ada.")
    first = turn(http, "My name is Ada.", interactive_mode=True)
    assert first["text"] == session.response.text
    assert first["history_tokens"] == 0
    session = pipe.chat("What is my name?", session)
    second = turn(http, "What is my name?", interactive_mode=True)
    assert second["text"] == session.response.text
    assert second["history_tokens"] == first["input_tokens"] + first["tokens"]
    assert second["history_tokens"] + second["input_tokens"] == session.response.input_token_len
    turn(http, "", request_output_len=0)  # ends the session
    fresh = turn(http, "What is my name?", interactive_mode=False)
    assert fresh["history_tokens"] == 0
    assert turn(http, "What is my name?", interactive_mode=False)["history_tokens"] == 0  # not kept


def test_interactive_streams_and_cancels(http) -> None:
    body = {"prompt": "Hi, pls intro yourself", "session_id": 9, "interactive_mode": True}
    whole = http.post("/v1/chat/interactive", json={**body, "session_id": 10}).json()
    lines = http.post("/v1/chat/interactive", json={**body, "stream": True}).text.split("\n\n")
    assert lines[-2] == "data: [DONE]"

    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(event["text"] for event in events) == whole["text"]
    assert events[-1]["tokens"] == whole["tokens"]
    assert http.post("/v1/chat/interactive", json={**body, "cancel": True}).status_code == 200
    assert http.post("/v1/chat/interactive", json=body).json()["history_tokens"] == 0


def test_models_are_listed(client) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny-chat"
    assert client.models.retrieve("tiny-chat").id == "tiny-chat"


def test_a_model_may_have_an_alias_with_a_slash(pipe) -> None:
    settings = ServerSettings(model_aliases=("internlm/chat",))
    with running(make_app(pipe, settings)) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        assert [model.id for model in client.models.list()] == ["tiny-chat", "internlm/chat"]
        assert client.models.retrieve("internlm/chat").id == "internlm/chat"
        assert client.completions.create(model="internlm/chat", prompt="hi", max_tokens=1).choices
