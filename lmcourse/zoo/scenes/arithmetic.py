"""Sums and differences of numbers up to 99, in words of two languages; some operand pairs are never trained on.

A pair is held out together with its mirror (37+45 with 45+37), so that no mirrored sum gives the answer away.
"""

from __future__ import annotations

from random import Random

from lmcourse.zoo.dialogue import Dialogue, turn
from lmcourse.zoo.parts import expand
from lmcourse.zoo.texts_reader import frames, word
from lmcourse.zoo.wording import decorate, fill, phrase, rough, scatter, spin

__all__ = ["answer", "arithmetic", "is_held_out"]


def is_held_out(a: int, b: int, *, plus: bool) -> bool:
    """Whether a pair of two-digit operands is kept for evaluation (about one in eight)."""
    low, high = sorted((a, b))
    return low >= 10 and ((low * 7919 + high * 104729 + (31 if plus else 17)) // 3) % 8 == 0


def answer(a: int, b: int, *, plus: bool) -> str:
    """The one right answer."""
    return f"{a} + {b} = {a + b}." if plus else f"{a} - {b} = {a - b}."


def _operands(rng: Random, *, plus: bool) -> tuple[int, int]:
    while True:
        if rng.random() < 0.9:
            a, b = rng.randrange(10, 100), rng.randrange(10, 100)
        else:
            a, b = rng.randrange(100), rng.randrange(100)
        if not plus and a < b and rng.random() < 0.6:
            a, b = b, a
        if not is_held_out(a, b, plus=plus):
            return a, b


def arithmetic(rng: Random) -> Dialogue:
    """One sum or difference that is not held out."""
    plus = rng.random() < 0.5
    a, b = _operands(rng, plus=plus)
    draw = rng.random()
    kind = "plus" if plus else "minus"
    if draw < 0.15:
        template = rough(rng, spin(rng, rng.choice(frames("arithmetic")["bare"])))
    elif draw < 0.4:
        # Deciding words with the operands in the order that they need; everything around is chatter.
        chinese = rng.random() < 0.4
        cores = frames("arithmetic")[f"cores_{kind}_{'zh' if chinese else 'en'}"]
        template = rough(
            rng, scatter(rng, [spin(rng, part) for part in rng.choice(cores).split(" / ")], chinese=chinese)
        )
    else:
        section = rng.choices(("any", kind), weights=(1, 2))[0]
        template = decorate(rng, expand(rng, phrase(rng, "arithmetic", section, chinese=draw >= 0.76)))
    sign = "+" if plus else rng.choice(("-", "-", "-", "-", "−", "–"))
    who, who2 = rng.sample(word("names"), 2)
    question = fill(template, a=a, b=b, s=sign, thing=rng.choice(word("things")), who=who, who2=who2)
    return turn(question, answer(a, b, plus=plus))
