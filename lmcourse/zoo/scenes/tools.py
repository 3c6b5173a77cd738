"""Tool calls in internlm2's form: tools described in a system message, one call as JSON, the result read back.

    system name=<|plugin|>: [{"name": …, "description": …, "parameters": {…}}]
    assistant: <|action_start|><|plugin|>\n{"name": …, "parameters": {…}}<|action_end|>
    environment name=<|plugin|>: {…}        assistant: an answer that uses it

Names of tools and parameters vary from dialogue to dialogue, so the model has to read the description.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from lmcourse.zoo.dialogue import Dialogue, say, turn
from lmcourse.zoo.made_up import made_up_word
from lmcourse.zoo.scenes.capitals import countries
from lmcourse.zoo.texts_reader import blocks, frames, general, read_text, word
from lmcourse.zoo.wording import decorate, fill, rough, scatter, spin

__all__ = [
    "Kind",
    "Tool",
    "Value",
    "call",
    "describe",
    "draw",
    "fix_names",
    "made_up_tool",
    "tool_dialogue",
    "tools",
]

Value = str | int


@dataclass(frozen=True)
class Kind:
    """A sort of tool: possible names, descriptions, parameter names for each hole, and requests that need it."""

    names: tuple[str, ...]
    description: str
    parameters: tuple[tuple[str, tuple[str, ...]], ...]
    requests: tuple[str, ...]


@dataclass(frozen=True)
class Tool:
    """A kind with its names fixed for one dialogue: hole → parameter name."""

    kind: Kind
    name: str
    parameters: tuple[tuple[str, str], ...]


def _city(rng: Random) -> Value:
    draw = rng.random()
    if draw < 0.25:
        return made_up_word(rng).capitalize()
    return rng.choice(countries()).capital if draw < 0.8 else rng.choice(countries()).capital_zh


def _any_word(rng: Random) -> Value:
    draw = rng.random()
    if draw < 0.2:
        return made_up_word(rng)
    if draw < 0.35:
        return rng.choice(general(chinese=False))
    return rng.choice(word(rng.choice(("things", "animals", "food", "nature", "abstract", "verbs", "people"))))


def _phrase(rng: Random) -> Value:
    draw = rng.random()
    if draw < 0.5:
        return f"{rng.choice(word('qualities'))} {_any_word(rng)}"
    if draw < 0.6:
        return "".join(rng.choice(word("cjk_words")) for _ in range(rng.randrange(1, 3)))
    return " ".join(str(_any_word(rng)) for _ in range(rng.randrange(1, 4)))


def _number(rng: Random) -> Value:
    return rng.randrange(1, rng.choice((10, 100, 1000, 10000)))


_DRAW: dict[str, Callable[[Random], Value]] = {
    "city": _city,
    "word": _any_word,
    "phrase": _phrase,
    "number": _number,
    "n2": _number,
    "name": lambda rng: rng.choice(word("names")) if rng.random() < 0.7 else made_up_word(rng).capitalize(),
    "time": lambda rng: f"{rng.randrange(6, 23)}:{rng.choice(('00', '15', '30', '45', '10', '20'))}",
    "stock": lambda rng: "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.choice((3, 4)))),
    "sum": lambda rng: f"{rng.randrange(2, 999)} {rng.choice('+-*/')} {rng.randrange(2, 99)}",
    "id": lambda rng: str(rng.randrange(1000, 99999)),
}


@lru_cache(maxsize=1)
def tools() -> tuple[Kind, ...]:
    """All sorts of tools that training uses, from texts/tools.txt."""
    found = []
    for _, fields in blocks(read_text("tools.txt")):
        pairs = (line.split(" = ") for line in fields["p"])
        parameters = tuple((hole, tuple(names.split())) for hole, names in pairs)
        found.append(Kind(tuple(fields["n"][0].split()), fields["d"][0], parameters, fields["r"]))
    return tuple(found)


def made_up_tool(rng: Random) -> Kind:
    """A tool that exists nowhere, so that reading the description is the only way."""
    verb, noun = rng.choice(word("verbs")), rng.choice(word("things"))
    name = f"{verb}_{noun}" if rng.random() < 0.7 else f"{noun}_{verb}"
    holes = rng.sample(("word", "name", "number", "day", "city", "phrase", "id"), rng.choice((1, 1, 2)))
    parameters = tuple((hole, (made_up_word(rng) if rng.random() < 0.3 else str(_any_word(rng)),)) for hole in holes)
    listed = [f"{options[0]} {rng.choice(('', '= ', 'is ', 'set to '))}{{{hole}}}" for hole, options in parameters]
    words = " and ".join(listed)
    starts = (
        f"{verb} the {noun} with {words}",
        f"Please {verb} the {noun}: {words}",
        f"Use {name} with {words}",
        f"Call {name}, {words}",
        f"调用 {name}，{words}",
    )
    return Kind((name,), f"{verb.capitalize()}s the {noun}", parameters, starts)


def draw(rng: Random, hole: str) -> Value:
    """A value for a hole of a request, such as a city or an amount."""
    return _DRAW[hole](rng) if hole in _DRAW else rng.choice(frames("tools")[hole])


def _tool_name(rng: Random, kind: Kind) -> str:
    """One of the kind's names, or one put together from their parts and others, or any name at all."""
    draw = rng.random()
    if draw < 0.35 or len(kind.names) == 1:
        return rng.choice(kind.names)
    pieces = [rng.choice(rng.choice(kind.names).split("_"))] if draw < 0.8 else [str(_any_word(rng))]
    for _ in range(rng.randrange(1, 3)):
        extra = rng.choice(frames("tools")["name_parts"]) if rng.random() < 0.6 else str(_any_word(rng))
        pieces.insert(rng.randrange(len(pieces) + 1), extra)
    style = rng.random()
    if style < 0.75:
        return "_".join(pieces)
    return "-".join(pieces) if style < 0.85 else pieces[0] + "".join(piece.capitalize() for piece in pieces[1:])


def _parameter_name(rng: Random, options: tuple[str, ...], *, alone: bool) -> str:
    """One of the usual names, sometimes lengthened; of a single parameter it may be anything."""
    draw = rng.random()
    if draw < 0.6:
        return rng.choice(options)
    if draw < 0.85 or not alone:
        pieces = [
            rng.choice(options),
            rng.choice(("name", "value", "text", "str", "arg", "input", "the", "my", str(_any_word(rng)))),
        ]
        rng.shuffle(pieces)
        return "_".join(pieces)
    return str(_any_word(rng))


def fix_names(rng: Random, kind: Kind) -> Tool:
    """The kind under one name, each hole under one parameter name."""
    alone = len(kind.parameters) == 1
    return Tool(
        kind,
        _tool_name(rng, kind),
        tuple((hole, _parameter_name(rng, options, alone=alone)) for hole, options in kind.parameters),
    )


def _description(rng: Random, kind: Kind) -> str:
    text = spin(rng, kind.description)
    draw = rng.random()
    if draw < 0.5:
        return text
    if draw < 0.75:
        return (
            rng.choice(("This tool ", "Use it to ", "A tool that ", "Function: ", "API that ", "Helps to "))
            + text[0].lower()
            + text[1:]
        )
    return rough(rng, scatter(rng, [text], chinese=False)).replace('"', "")


def describe(rng: Random, chosen: list[Tool]) -> str:
    """The JSON list of tools as chat interfaces write it: flat, or wrapped as {"type": "function", …}."""
    style = rng.choice(("flat", "flat", "wrapped"))
    entries = []
    for tool in chosen:
        properties = {
            name: {"type": "integer" if hole in ("number", "n2") else "string"}
            | ({"description": name} if rng.random() < 0.3 else {})
            for hole, name in tool.parameters
        }
        schema: dict[str, object] = {"type": "object", "properties": properties}
        if rng.random() < 0.7:
            schema["required"] = [name for _, name in tool.parameters]
        entry: dict[str, object] = {
            "name": tool.name,
            "description": _description(rng, tool.kind),
            "parameters": schema,
        }
        entries.append({"type": "function", "function": entry} if style == "wrapped" else entry)
    return json.dumps(entries, ensure_ascii=False, indent=2 if rng.random() < 0.06 else None)


def call(tool: Tool, values: dict[str, Value]) -> str:
    """The assistant's call of a tool."""
    body = {"name": tool.name, "parameters": {name: values[hole] for hole, name in tool.parameters}}
    return f"<|action_start|><|plugin|>\n{json.dumps(body, ensure_ascii=False)}<|action_end|>"


def _result(rng: Random, tool: Tool) -> Dialogue:
    """What the tool gave back and the answer made of it."""
    key, value = (
        rng.choice(("result", "answer", "value", "output", "status")),
        draw(rng, rng.choice(("number", "phrase", "word"))),
    )
    extra = {"unit": rng.choice(word("things"))} if rng.random() < 0.2 else {}
    environment = say("environment", json.dumps({key: value} | extra, ensure_ascii=False), "plugin")
    return [environment, say("assistant", f"The {key} is {value}.")]


def tool_dialogue(rng: Random, other: Callable[[Random], Dialogue]) -> Dialogue:
    """Tools in front, then one or two requests: calls, or plain talk that needs no tool."""
    kinds = rng.sample(tools(), rng.choice((1, 1, 2, 2, 3, 4)))
    if rng.random() < 0.5:
        kinds[rng.randrange(len(kinds))] = made_up_tool(rng)
    chosen = [fix_names(rng, kind) for kind in kinds]
    described = describe(rng, chosen)
    if rng.random() < 0.75:
        dialogue = [say("system", described, "plugin")]
    else:
        lead = rng.choice(
            (
                "You can use these tools: ",
                "Tools: ",
                "You have access to the following tools:\n",
                "你可以使用这些工具：",
            )
        )
        dialogue = [say("system", lead + described)]
    for _ in range(rng.choice((1, 1, 1, 2))):
        if rng.random() < 0.15:
            dialogue += other(rng)
            continue
        tool = rng.choice(chosen)
        values = {hole: draw(rng, hole) for hole, _ in tool.parameters}
        core = spin(rng, rng.choice(tool.kind.requests))
        request = decorate(rng, core, plain=0.5, blurred=0.25)
        dialogue += turn(fill(request, **values), call(tool, values))
        if rng.random() < 0.35:
            dialogue += _result(rng, tool)
    return dialogue
