"""The evaluation's tasks: chats made from heldout.py's wordings, each with a test of the last answer.

A chat is played for real: the model's own answers become the history of the next turn. Instances are seeded and never
depend on the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from lmcourse.zoo import heldout
from lmcourse.zoo.dialogue import Message, say
from lmcourse.zoo.persona import DEFAULT_META_INSTRUCTION
from lmcourse.zoo.scenes.arithmetic import is_held_out
from lmcourse.zoo.scenes.capitals import Country, countries
from lmcourse.zoo.scenes.course import Side, Topic, topics
from lmcourse.zoo.texts_reader import word
from lmcourse.zoo.wording import fill, spin

__all__ = ["TASKS", "Instance", "holds_terms", "instances"]


@dataclass(frozen=True)
class Instance:
    """User turns (with messages before them), the group it is counted in, and whether the last answer is right."""

    before: tuple[Message, ...]
    turns: tuple[str, ...]
    group: str
    is_right: Callable[[str], bool]


def _before(rng: Random) -> tuple[Message, ...]:
    return (say("system", DEFAULT_META_INSTRUCTION),) if rng.random() < 0.5 else ()


def _arithmetic(rng: Random) -> Instance:
    plus = rng.random() < 0.5
    while True:
        a, b = rng.randrange(10, 100), rng.randrange(10, 100)
        if is_held_out(a, b, plus=plus) and (plus or a > b or rng.random() < 0.25):
            break
    question = fill(rng.choice(heldout.lines("arithmetic plus" if plus else "arithmetic minus")), a=a, b=b)
    expected = a + b if plus else a - b

    def is_right(answer: str) -> bool:
        numbers = re.findall(r"-?\d+", answer.replace("−", "-"))
        return bool(numbers) and int(numbers[-1]) == expected

    return Instance(_before(rng), (question,), "plus" if plus else "minus", is_right)


def _names_capital(answer: str, country: Country) -> bool:
    return country.capital_zh in answer or bool(re.search(rf"\b{re.escape(country.capital)}(?!\w)", answer))


def _capital(rng: Random) -> Instance:
    country = rng.choice(countries())
    language = "zh" if rng.random() < 0.45 else "en"
    name = country.name_zh if language == "zh" else country.names[0]
    question = fill(rng.choice(heldout.lines(f"capitals {language}")), x=name)
    mine = (country.capital, country.capital_zh)

    def is_right(answer: str) -> bool:
        others = [c for c in countries() if c.capital not in mine[0] and c.capital_zh not in mine[1]]
        return _names_capital(answer, country) and not any(_names_capital(answer, other) for other in others)

    return Instance(_before(rng), (question,), language, is_right)


def _made_up(rng: Random) -> str:
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 3)))) + rng.choice(
        "nrtsl"
    )


def _words(rng: Random, count: int) -> list[str]:
    """Distinct words: mostly known ones, at most one that training never lists, a fifth of the lists made up."""
    kinds = ("animals", "food", "things", "nature", "people", "abstract", "verbs", "qualities")
    made_up = rng.random() < 0.2
    words = [_made_up(rng) if made_up else rng.choice(word(rng.choice(kinds))) for _ in range(count)]
    if rng.random() < 0.5:
        words[rng.randrange(count)] = rng.choice(heldout.lines("words"))
    return list(dict.fromkeys(words))


def _list(rng: Random) -> Instance:
    sort = rng.random() < 0.6
    words = _words(rng, rng.randrange(3, 9))
    expected = sorted(words, key=str.lower) if sort else words[::-1]
    kind = "sort" if sort else "reverse"
    question = fill(rng.choice(heldout.lines(f"lists {kind}")), l=rng.choice((", ", ", ", " ", "\n")).join(words))

    def is_right(answer: str) -> bool:
        return [part.strip().strip(".") for part in re.split(r"[,、\n]+", answer.strip())] == expected

    return Instance(_before(rng), (question,), kind, is_right)


def _passkey(rng: Random) -> Instance:
    chinese = rng.random() < 0.3
    filler, hides, asks, kinds = (
        heldout.lines(f"passkey {part} {'zh' if chinese else 'en'}") for part in ("filler", "hide", "ask", "kinds")
    )
    kind, value = rng.choice(kinds), str(rng.randrange(10_000, 100_000))
    hide, ask = fill(rng.choice(hides), k=kind, v=value), fill(rng.choice(asks), k=kind)
    size, sentences = rng.uniform(100, 1400) * (0.8 if chinese else 2.75), [rng.choice(filler)]
    while sum(map(len, sentences)) < size:
        sentences.append(rng.choice(filler))
    sentences.insert(rng.randrange(len(sentences) + 1), hide)
    text = ("" if chinese else " ").join(sentences)
    return Instance(_before(rng), (f"{text}\n{ask}",), "zh" if chinese else "en", lambda answer: value in answer)


def _aside(rng: Random) -> str:
    words = ", ".join(_words(rng, 4))
    a, b = rng.randrange(10, 100), rng.randrange(10, 100)
    return fill(rng.choice(heldout.lines("asides")), country=rng.choice(countries()).names[0], a=a, b=b, l=words)


def _recall(rng: Random) -> Instance:
    chinese = rng.random() < 0.4
    kinds = heldout.fact_kinds(chinese=chinese)
    told: dict[str, str] = {}
    turns = []
    for kind in rng.sample(sorted(kinds), rng.randrange(1, 4)):
        told[kind] = rng.choice(kinds[kind].values)
        turns.append(fill(rng.choice(kinds[kind].tell), v=told[kind]))
        turns += [_aside(rng) for _ in range(rng.randrange(0, 3))]
    asked = rng.choice(sorted(told))
    turns.append(rng.choice(kinds[asked].ask))
    wrong = [value for kind, value in told.items() if kind != asked and value not in told[asked]]

    def is_right(answer: str) -> bool:
        return told[asked].lower() in answer.lower() and not any(value.lower() in answer.lower() for value in wrong)

    return Instance(_before(rng), tuple(turns), f"{asked}_{'zh' if chinese else 'en'}", is_right)


def holds_terms(answer: str, side: Side) -> bool:
    """Whether the answer holds every key term of a topic's answer."""
    lowered = answer.lower()
    return all(any(option.lower() in lowered for option in options) for options in side.terms)


def _course_question(rng: Random, topic: Topic, language: str) -> tuple[str, str]:
    side = topic.english if language == "en" else topic.chinese
    choices = [("noun", side.nouns), ("task", side.tasks)]
    present = [choice for choice in choices if choice[1]]
    if side.pairs and rng.random() < 0.5:
        x, y = rng.sample(rng.choice(side.pairs), 2)
        return "frames", fill(rng.choice(heldout.lines(f"course pair {language}")), x=x, y=y)
    if present and rng.random() < 0.5:
        section, phrases = rng.choice(present)
        return "frames", fill(
            rng.choice(heldout.lines(f"course {section} {language}")), x=spin(rng, rng.choice(phrases))
        )
    return "written", heldout.questions()[topic.name][language == "zh"]


def _course(rng: Random) -> Instance:
    topic = rng.choice(topics())
    language = "zh" if rng.random() < 0.5 else "en"
    kind, question = _course_question(rng, topic, language)

    def is_right(answer: str) -> bool:
        sides = {other.name: other.chinese if language == "zh" else other.english for other in topics()}
        held = [name for name, side in sides.items() if holds_terms(answer, side)]
        return held == [topic.name]

    return Instance(_before(rng), (question,), f"{kind}_{language}", is_right)


def _schema(name: str, tool: heldout.HeldOutTool) -> dict[str, object]:
    properties = {key: {"type": kind} for key, kind, _ in tool.parameters}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": tool.description, "parameters": parameters}


def _tools(rng: Random) -> Instance:
    offered = rng.sample(heldout.tools(), rng.randrange(1, 4))
    names = [rng.choice(tool.names) for tool in offered]
    pick = rng.randrange(len(offered))
    drawn = [(key, kind, rng.choice(options)) for key, kind, options in offered[pick].parameters]
    described = json.dumps([_schema(name, tool) for name, tool in zip(names, offered, strict=True)], ensure_ascii=False)
    typed = {key: int(value) if kind == "integer" else value for key, kind, value in drawn}
    expected = {"name": names[pick], "parameters": typed}

    def is_right(answer: str) -> bool:
        found = re.search(r"\{.*\}", answer, re.DOTALL)
        try:
            return found is not None and json.loads(found.group()) == expected
        except ValueError:
            return False

    before = (*_before(rng), say("system", described, "plugin"))
    request = fill(rng.choice(offered[pick].requests), **{key: value for key, _, value in drawn})
    return Instance(before, (request,), "calls", is_right)


TASKS: dict[str, Callable[[Random], Instance]] = {
    "arithmetic": _arithmetic,
    "capitals": _capital,
    "word_lists": _list,
    "passkey": _passkey,
    "recall": _recall,
    "course": _course,
    "tools": _tools,
}


def instances(task: str, count: int) -> list[Instance]:
    """The first `count` instances of a task; the same ones everywhere."""
    rng = Random(f"{heldout.seed()} {task}")
    return [TASKS[task](rng) for _ in range(count)]
