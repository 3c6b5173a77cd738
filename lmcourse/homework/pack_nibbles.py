"""Exercise 4.2: pack eight 4-bit numbers into each 32-bit word, and take them out again.

    number   w0 w2 w4 w6 w1 w3 w5 w7
    bits     0…3 4…7 …            …31

The reference writes bits as text, apart from quant/packing.py, so that the two can be compared.

Lesson: 4 (packing bits)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["PACK_NIBBLES", "pack_as_text"]

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack_as_text(values: list[int]) -> list[int]:
    """Eight numbers from 0 to 15 at a time → words from 0 to 2³² − 1, in AWQ's order."""
    return [_word([values[first + place] for place in _ORDER]) for first in range(0, len(values), 8)]


def _word(nibbles: list[int]) -> int:
    return int("".join(f"{nibble:04b}" for nibble in reversed(nibbles)), 2)


def _make_cases(rng: random.Random) -> Iterator[Case]:
    yield _case([0, 1, 2, 3, 4, 5, 6, 7])
    for count in (8, 16, 40):
        yield _case([rng.randrange(16) for _ in range(count)])
    yield _case([15] * 8)


def _case(values: list[int]) -> Case:
    shown = f"values={values}" if len(values) <= 16 else f"{len(values)} values from 0 to 15"
    return Case(shown, lambda: (list(values),), pack_as_text(values))


def _packed_by(place: Callable[[list[int]], list[int]]) -> Callable[[list[int]], list[int]]:
    return lambda values: [_word(place(values[first : first + 8])) for first in range(0, len(values), 8)]


def _shifted_three(values: list[int]) -> list[int]:
    eights = [values[first : first + 8] for first in range(0, len(values), 8)]
    return [sum(eight[place] << (3 * n) for n, place in enumerate(_ORDER)) for eight in eights]


def _signed(values: list[int]) -> list[int]:
    return [word - 2**32 if word >= 2**31 else word for word in pack_as_text(values)]


PACK_NIBBLES = Exercise(
    id="4.2",
    title="Pack the bits",
    signature="pack(values) → list of words, each from 0 to 2**32 - 1",
    difficulty=1,
    minutes=15,
    hints=(
        "Take eight values at a time. Each gets four bits of its own in one word: shift it there, and combine.",
        "Nibble n lies at bits 4·n and up, and holds the value at place (0, 2, 4, 6, 1, 3, 5, 7)[n] of its eight.",
        "For one word: sum(eight[place] << (4 * n) for n, place in enumerate((0, 2, 4, 6, 1, 3, 5, 7))). Do that for "
        "values[0:8], values[8:16] and so on.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(_packed_by(lambda eight: eight), "the values lie in plain order 0, 1, 2 …; AWQ's is 0, 2, 4, 6, 1, …"),
        Mistake(
            _packed_by(lambda eight: [eight[place] for place in reversed(_ORDER)]),
            "the word is turned round: the first value belongs into the lowest bits",
        ),
        Mistake(
            _packed_by(lambda eight: [eight[_ORDER.index(place)] for place in range(8)]),
            "that is the order for unpacking: nibble n holds value order[n], not the other way round",
        ),
        Mistake(_signed, "these are the words as signed int32; the answer counts from 0 to 2³² - 1"),
        Mistake(_shifted_three, "a number from 0 to 15 takes four bits; these overlap"),
    ),
)
