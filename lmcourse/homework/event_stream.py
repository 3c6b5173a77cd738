"""Exercise 5.1: the lines of a streamed answer → its text.

Lesson: 5 (streaming)
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["EVENT_STREAM"]

_WORDS = (
    "Hello", " there", "上海", "是", "中国", " data: 7", "\n", "a", " {not json}", "  ", "!", " [DONE]",
    "\u2028", '"quoted"',
)  # fmt: skip


def _join(
    lines: list[str],
    *,
    belongs: Callable[[dict[str, Any]], bool] = lambda choice: choice["index"] == 0,
    text_of: Callable[[dict[str, Any]], str] = lambda delta: delta.get("content") or "",
) -> str:
    text = ""
    for line in lines:
        if line == "data: [DONE]":
            break
        if line.startswith("data: "):
            choices = json.loads(line.removeprefix("data: "))["choices"]
            text += "".join(text_of(choice["delta"]) for choice in choices if belongs(choice))
    return text


def _chunk(*choices: tuple[int, dict[str, Any]], **more: Any) -> str:
    made = [{"index": index, "delta": delta, "finish_reason": None} for index, delta in choices]
    return "data: " + json.dumps({"object": "chat.completion.chunk", "choices": made, **more}, ensure_ascii=False)


def _stream(rng: random.Random, num_answers: int, pieces: list[tuple[int, str]]) -> list[str]:
    """As a server sends it: role, pieces, comments to keep the connection, usage without choices, the end."""
    answers = range(num_answers)
    lines = [_chunk(*((index, {"role": "assistant", "content": None}) for index in answers)), ""]
    for index, text in pieces:
        lines += [_chunk((index, {"content": text})), ""]
        if rng.random() < 0.2:
            lines += [": still working", ""]
    lines += [_chunk(*((index, {}) for index in answers)), ""]
    lines += [_chunk(usage={"prompt_tokens": 9, "completion_tokens": len(pieces)}), ""]
    return [*lines, "data: [DONE]", ""]


def _make_cases(rng: random.Random) -> Iterator[Case]:
    inputs = [(1, [(0, "Hello"), (0, " there"), (0, "!\n")]), (2, [(0, "yes"), (1, "no"), (0, " ")]), (1, [])]
    for num_answers in (1, 3, 1, 2, 4):
        count = rng.randint(8, 20)
        inputs.append((num_answers, [(rng.randrange(num_answers), rng.choice(_WORDS)) for _ in range(count)]))
    for num_answers, pieces in inputs:
        lines = _stream(rng, num_answers, pieces)
        shown = f"{len(lines)} lines, answers: {num_answers}; among them {lines[0]!r} and {lines[-4]!r}"
        yield Case(shown, partial(_copied, lines), _join(lines))


def _copied(lines: list[str]) -> tuple[list[str]]:
    return (list(lines),)


EVENT_STREAM = Exercise(
    id="5.1",
    title="Read a stream",
    signature="read_stream(lines) → text of the answer with index 0",
    difficulty=1,
    minutes=10,
    hints=(
        "Look at the raw lines that the lesson printed. Which kinds are there, and which of them carry text?",
        "Only lines that begin with `data: ` matter. What follows is JSON, except for one word that ends the stream. "
        "The text is in choices → delta → content, and each of the three may be missing or empty.",
        "For each line: skip it unless line.startswith('data: '); stop if the rest is '[DONE]'; otherwise json.loads "
        "the rest, go through chunk['choices'], keep those with index 0, and add delta.get('content') or ''.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(
            lambda lines: _join(lines, text_of=lambda delta: str(delta.get("content"))),
            "a delta without content, or with None, adds nothing; the word None is in your text",
        ),
        Mistake(
            lambda lines: _join(lines, belongs=lambda choice: True),
            "the answers of all indexes are mixed; only index 0 was asked for",
        ),
        Mistake(
            lambda lines: _join(lines, text_of=lambda delta: (delta.get("content") or "").strip()),
            "spaces and line breaks at the ends of a piece belong to the text; do not strip",
        ),
        Mistake(
            lambda lines: " ".join(_join([line]) for line in lines if _join([line])),
            "the pieces fit together as they are; nothing goes between them",
        ),
    ),
)
