"""Exercise 5.2: how many steps do requests take, with batches that wait for their slowest and with continuous ones?

Lesson: 5 (continuous batching)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["BATCH_STEPS"]


def _static(lengths: list[int], places: int) -> int:
    return sum(max(lengths[start : start + places]) for start in range(0, len(lengths), places))


def _continuous(lengths: list[int], places: int) -> int:
    """Whoever comes next takes the place that is free first."""
    free_at = [0] * places
    for length in lengths:
        soonest = free_at.index(min(free_at))
        free_at[soonest] += length
    return max(free_at)


def _answer(lengths: list[int], places: int) -> tuple[int, int]:
    return _static(lengths, places), _continuous(lengths, places)


def _make_cases(rng: random.Random) -> Iterator[Case]:
    inputs = [([2, 9, 3, 3], 2), ([5], 4), ([4, 4, 4, 4], 2), ([1, 1, 1, 12], 2), ([7, 2, 5], 1)]
    for _ in range(5):
        places = rng.randint(2, 6)
        inputs.append(([rng.randint(1, 40) for _ in range(rng.randint(places + 1, 20))], places))
    for lengths, places in inputs:
        shown = f"lengths={lengths}, places={places}"
        yield Case(
            shown, partial(lambda given, places: (list(given), places), lengths, places), _answer(lengths, places)
        )


BATCH_STEPS = Exercise(
    id="5.2",
    title="Steps, static and continuous",
    signature="count_steps(lengths, places) → (static, continuous)",
    difficulty=2,
    minutes=15,
    hints=(
        "Lay the requests out on squared paper, a row per place in the batch, a column per step, as in the timeline of "
        "the lesson. When may the next request begin in each of the two ways?",
        "Static: cut the list into groups of `places`; a group takes as many steps as its longest, and they add up. "
        "Continuous: the next request takes the place that becomes free first.",
        "For continuous keep a list with, per place, the step at which it is free, zeros at first. For each length in "
        "order add it to the smallest entry. At the end the largest entry is the number of steps.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(
            lambda lengths, places: (_static(lengths, places), -(-sum(lengths) // places)),
            "the sum divided by the places is only a lower bound: at the end places stay empty",
        ),
        Mistake(
            lambda lengths, places: _answer(sorted(lengths, reverse=True), places),
            "the requests were sorted; they are taken in the order of arrival",
        ),
        Mistake(
            lambda lengths, places: _answer(lengths, places)[::-1],
            "the right numbers in the wrong order: static comes first",
        ),
        Mistake(
            lambda lengths, places: (sum(lengths), _continuous(lengths, places)),
            "static is not one by one: a group runs together, and takes as long as its longest",
        ),
        Mistake(
            lambda lengths, places: (max(_static(lengths, places), 0), max(lengths)),
            "not all requests fit at once; who waits for a place ends later than the longest",
        ),
    ),
)
