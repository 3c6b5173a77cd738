"""One exercise as data: what is asked, how it is judged, which mistakes it knows, three hints.

An exercise makes fresh cases from a seed, so an answer cannot be fitted to known inputs, and the same seed repeats
them. A Mistake is a wrong answer that people really give, as a function: a case where the answer equals the mistake
gets the mistake's advice instead of a bare "expected, got".

Contract: everything here is frozen; cases share no mutable value, since each call of `make_arguments` builds its own.

Lesson: 9 (homework)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Case", "Exercise", "Mistake"]


@dataclass(frozen=True)
class Case:
    """One call of the answer. `shown` describes the input in one line, as the student will read it."""

    shown: str
    make_arguments: Callable[[], Sequence[Any]]
    expected: Any


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer and what to say about it."""

    answer: Callable[..., Any]
    advice: str


@dataclass(frozen=True)
class Exercise:
    """`signature` is how the answer is called, in words of the lesson; `difficulty` is 1 to 3."""

    id: str
    title: str
    signature: str
    difficulty: int
    minutes: int
    hints: tuple[str, str, str]
    make_cases: Callable[[random.Random], Iterator[Case]]
    mistakes: tuple[Mistake, ...] = ()

    @property
    def lesson(self) -> int:
        return int(self.id.partition(".")[0])

    @property
    def function(self) -> str:
        """The name that the student's cell defines."""
        return self.signature.partition("(")[0]

    @property
    def points(self) -> int:
        """What it is worth when it is graded."""
        return 10 * self.difficulty
