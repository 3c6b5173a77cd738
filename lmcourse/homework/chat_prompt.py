"""Exercise 2.2: a conversation → the one prompt string that an internlm2 chat model was trained on.

Lesson: 2 (what a chat model really reads)
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["CHAT_PROMPT", "join_turns"]

_Messages = list[dict[str, str]]
_START, _END = "<|im_start|>", "<|im_end|>"
_WORDS = (
    "hello", "你好", "上海是", "two\nlines", "  spaces kept  ", "a { brace } and a <tag>", "naïve café",
    "给我讲个笑话", "what is paged attention?", "1 + 1 = 2", "user", "🙂",
)  # fmt: skip


def join_turns(messages: _Messages) -> str:
    """Every message as one turn, then the opening of the assistant's next turn."""
    prompt = ""
    for message in messages:
        prompt += _START + message["role"] + "\n" + message["content"] + _END + "\n"
    return prompt + _START + "assistant\n"


def _make_cases(rng: random.Random) -> Iterator[Case]:
    yield _make_case([{"role": "user", "content": "hello"}])
    yield _make_case([{"role": "system", "content": "two\nlines"}, {"role": "user", "content": "  spaces kept  "}])
    for with_system, rounds in (
        (True, 1),
        (False, 2),
        (True, 3),
        (False, rng.randint(1, 4)),
        (True, rng.randint(1, 4)),
    ):
        messages = [{"role": "system", "content": rng.choice(_WORDS)}] if with_system else []
        for _ in range(rounds):
            messages.append({"role": "user", "content": rng.choice(_WORDS)})
            messages.append({"role": "assistant", "content": rng.choice(_WORDS)})
        yield _make_case(messages[:-1])


def _make_case(messages: _Messages) -> Case:
    return Case(f"messages={messages!r}", lambda: ([dict(message) for message in messages],), join_turns(messages))


def _stripped(messages: _Messages) -> str:
    return join_turns([{**message, "content": message["content"].strip()} for message in messages])


def _without_system(messages: _Messages) -> str:
    return join_turns([message for message in messages if message["role"] != "system"])


CHAT_PROMPT = Exercise(
    id="2.2",
    title="Wrap a conversation",
    signature="render(messages) → prompt text",
    difficulty=1,
    minutes=10,
    hints=(
        "A chat model still only continues text. The template is the text form of a conversation: every message, "
        "with its role, between a start mark and an end mark. What should the last line be, so that the model goes "
        "on as itself?",
        "One turn is <|im_start|>ROLE, a line break, the content exactly as given, <|im_end|>, a line break. After "
        "the last message comes the beginning of a turn by the assistant, which the model will finish.",
        "Join f'<|im_start|>{role}\\n{content}<|im_end|>\\n' over all messages, then add '<|im_start|>assistant\\n'. "
        "No <s> here: the tokenizer adds it.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(
            lambda m: join_turns(m)[: -len(f"{_START}assistant\n")], "the assistant's turn is not opened at the end"
        ),
        Mistake(lambda m: join_turns(m)[:-1], "a line break is missing after the last `assistant`"),
        Mistake(lambda m: "<s>" + join_turns(m), "<s> is added by the tokenizer; with it here there would be two"),
        Mistake(lambda m: join_turns(m).replace(f"{_END}\n", _END), "a line break is missing after each <|im_end|>"),
        Mistake(lambda m: join_turns(m) + _END, "the assistant's turn is closed already; leave it open for the model"),
        Mistake(_stripped, "the content was changed: spaces at its ends belong to it"),
        Mistake(_without_system, "the system message is missing"),
    ),
)
