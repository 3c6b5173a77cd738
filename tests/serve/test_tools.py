"""Tools and schemas through the openai client: tiny-chat really calls tools, and what it writes follows its form."""

from __future__ import annotations

import json
import random

import openai
import pytest
from jsonschema import validate

from lmcourse.serve.tools import CallSplitter
from lmcourse.text.tool_format import INTERNLM2_TOOLS

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluate a math expression",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
            "additionalProperties": False,
        },
    },
}


def ask(client, text, **settings):
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    return client.chat.completions.create(model="tiny-chat", messages=messages, **settings)


def joined(stream):
    """A stream's message: content, calls, reason."""
    content, calls, reason = "", {}, None
    for chunk in stream:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                known = calls.setdefault(call.index, {"id": call.id, "name": "", "arguments": ""})
                known["name"] += call.function.name or ""
                known["arguments"] += call.function.arguments or ""
            reason = choice.finish_reason or reason
    return content, list(calls.values()), reason


@pytest.mark.parametrize("city", ["Paris", "Tokyo", "Berlin"])
def test_the_model_calls_a_tool(client, city) -> None:
    answer = ask(client, f"What is the weather in {city}?", tools=[WEATHER]).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": city}


def test_streamed_call_is_the_whole_one(client) -> None:
    question = "What is the weather in Paris?"
    (expected,) = ask(client, question, tools=[WEATHER]).choices[0].message.tool_calls
    content, (call,), reason = joined(ask(client, question, tools=[WEATHER], stream=True))
    assert (content, reason) == ("", "tool_calls")
    assert call["id"].startswith("call_")
    assert (call["name"], call["arguments"]) == (expected.function.name, expected.function.arguments)


def test_a_result_is_read_and_answered(client) -> None:
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    said = ask(client, messages, tools=[WEATHER]).choices[0].message
    messages.append(said.model_dump(exclude_none=True))
    messages.append({"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": '{"result": "sunny"}'})
    answer = ask(client, messages, tools=[WEATHER]).choices[0]
    assert answer.finish_reason == "stop"
    assert "sunny" in answer.message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "calculator"}}])
def test_choice_forces_a_call(client, choice) -> None:
    answer = ask(client, "Hi, pls intro yourself", tools=[WEATHER, CALCULATOR], tool_choice=choice, max_tokens=400)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name in ("get_weather", "calculator")
    if choice != "required":
        assert call.function.name == "calculator"
    tool = {"get_weather": WEATHER, "calculator": CALCULATOR}[call.function.name]
    validate(json.loads(call.function.arguments), tool["function"]["parameters"])


NO_PARAMETERS = [{}, {"parameters": {}}, {"parameters": {"type": "object", "properties": {}}}]


@pytest.mark.parametrize("parameters", NO_PARAMETERS, ids=range(3))
def test_a_tool_without_parameters_is_called_without_arguments(client, parameters) -> None:
    tool = {"type": "function", "function": {"name": "now", **parameters}}
    answer = ask(client, "What is the weather in Paris?", tools=[tool], tool_choice="required").choices[0]
    assert answer.message.tool_calls[0].function.arguments == "{}"


def test_a_tool_may_have_nothing_to_say(client) -> None:
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    said = ask(client, messages, tools=[WEATHER], tool_choice="required").choices[0].message
    messages += [said, {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": ""}]
    assert ask(client, messages, tools=[WEATHER], max_tokens=20).choices[0].finish_reason in ("stop", "length")


def test_choice_none_never_calls(client) -> None:
    answer = ask(client, "What is the weather in Paris?", tools=[WEATHER], tool_choice="none").choices[0]
    assert answer.message.tool_calls is None
    assert answer.message.content
    assert answer.finish_reason == "stop"


def test_plain_talk_beside_tools_stays_plain(client) -> None:
    answer = ask(client, "What is 17 + 25?", tools=[WEATHER]).choices[0]
    assert answer.message.tool_calls is None
    assert "42" in answer.message.content


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["large", "small"]},
        "rank": {"type": "integer", "minimum": 1, "maximum": 20},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2},
    },
    "required": ["city", "kind", "rank", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1.2])
def test_json_schema_is_followed(client, temperature) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    settings = dict(response_format=form, temperature=temperature, seed=random.randrange(2**31), max_tokens=200)
    answer = ask(client, "What is the capital of France?", **settings).choices[0]
    assert answer.finish_reason == "stop"
    validate(json.loads(answer.message.content), SCHEMA)
    content, _, _ = joined(ask(client, "What is the capital of France?", stream=True, **settings))
    assert content == answer.message.content


def test_integers_end(client) -> None:
    """Without bounds tiny-chat goes on with a digit until the answer is cut."""
    person = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer"}}}
    schema = {**person, "required": ["name", "age"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = ask(client, "hi", response_format=form, max_tokens=60).choices[0]
    assert answer.finish_reason == "stop"
    assert abs(json.loads(answer.message.content)["age"]) < 2**53


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number"},
        {"enum": [0.1234567890123456789012345]},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "pattern": "^[0-9]{30}$"},
    ],
    ids=["any", "long", "share", "text"],
)
def test_runs_of_digits_end_unless_the_schema_wants_them(client, schema) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "array", "items": schema, "minItems": 1, "maxItems": 1}},
    }
    for seed in range(3):
        settings = {"seed": seed, "temperature": 1.5} if seed else {}
        answer = ask(client, "hi", response_format=form, max_tokens=150, **settings).choices[0]
        assert answer.finish_reason == "stop"
        validate(json.loads(answer.message.content), form["json_schema"]["schema"])


def test_json_object_is_an_object(client) -> None:
    answer = ask(client, "hi", response_format={"type": "json_object"}, max_tokens=300).choices[0]
    assert answer.message.content.startswith("{")
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)


def test_refs_in_a_tools_schema_are_its_own(client) -> None:
    schema = {
        "type": "object",
        "properties": {"place": {"$ref": "#/$defs/place"}},
        "required": ["place"],
        "$defs": {"place": {"enum": ["here", "there"]}},
    }
    tool = {"type": "function", "function": {"name": "go", "parameters": schema}}
    answer = ask(client, "Go!", tools=[tool], tool_choice="required")
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments)["place"] in ("here", "there")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objec"}}}},
            "objec",
        ),
        ({"response_format": {"type": "json_schema"}}, "json_schema is given exactly"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
        ({"tools": [WEATHER, WEATHER]}, "same name"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "nope"}}}, "not among"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "string", "pattern": "(?=a)"}},
                }
            },
            "look-around",
        ),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"$ref": "http://a/b"}}}]}, "schema"),
    ],
)
def test_what_cannot_be_followed_is_refused(client, settings, message) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        ask(client, "hi", **settings)


def test_splitter_gives_the_same_whatever_the_pieces(rng) -> None:
    texts = [
        'Let me see. <|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": {"b": "}"}}}',
        '<|action_start|><|plugin|>\n{"name": "f", "parameters": {}}',
        "a < b and <|action",
        "<|action_start|><|plugin|>\n{\"nam",
    ]  # fmt: skip
    expected = [("Let me see. ", "f", '{"a": {"b": "}"}}'), ("", "f", "{}"), (texts[2], "", ""), (texts[3], "", "")]
    for text, wanted in zip(texts, expected, strict=True):
        for _ in range(30):
            splitter, content, name, arguments, rest = CallSplitter(INTERNLM2_TOOLS), "", "", "", text
            while rest:
                size = rng.randrange(1, 9)
                piece, rest = rest[:size], rest[size:]
                for delta in splitter.push(piece, last=not rest):
                    content += delta.get("content", "")
                    for call in delta.get("tool_calls", ()):
                        name += call["function"].get("name", "")
                        arguments += call["function"]["arguments"]
            assert (content, name, arguments) == wanted
