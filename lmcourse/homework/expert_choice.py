"""Exercise 8.1: which experts a token goes to, and how much of each comes back.

    logits ─softmax over all─▶ shares ─the largest─▶ [(expert, share), …], largest first; Mixtral divides by their sum

Lesson: 8 (a mixture of experts)
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from functools import partial

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["EXPERT_CHOICE"]

_Choice = list[tuple[int, float]]


def _softmax(logits: Sequence[float]) -> list[float]:
    highest = max(logits)
    raised = [math.exp(value - highest) for value in logits]
    return [value / sum(raised) for value in raised]


def _pick(shares: Sequence[float], chosen: int) -> list[int]:
    return sorted(range(len(shares)), key=lambda expert: -shares[expert])[:chosen]


def _choose(logits: Sequence[float], chosen: int, renormalise: bool) -> _Choice:  # noqa: FBT001 (the exercise's)
    shares = _softmax(logits)
    best = _pick(shares, chosen)
    whole = sum(shares[expert] for expert in best) if renormalise else 1.0
    return [(expert, shares[expert] / whole) for expert in best]


def _make_cases(rng: random.Random) -> Iterator[Case]:
    inputs = [([1.0, 3.0, 2.0, 0.0], 2, True), ([1.0, 3.0, 2.0, 0.0], 2, False), ([800.0, 810.0, 20.0], 2, True)]
    for number in range(8):
        count = rng.choice([5, 8, 16])
        logits = [round(rng.gauss(0, 2), 3) + expert * 1e-5 for expert in range(count)]
        inputs.append((logits, rng.randint(2, count - 1), number % 2 == 0))
    for logits, chosen, renormalise in inputs:
        shown = f"logits={logits}, chosen={chosen}, renormalise={renormalise}"
        yield Case(shown, partial(_copied, logits, chosen, renormalise), _choose(logits, chosen, renormalise))


def _copied(logits: Sequence[float], chosen: int, renormalise: bool) -> tuple[list[float], int, bool]:  # noqa: FBT001
    return list(logits), chosen, renormalise


def _always(logits: Sequence[float], chosen: int, renormalise: bool) -> _Choice:  # noqa: FBT001
    return _choose(logits, chosen, renormalise=True)


def _never(logits: Sequence[float], chosen: int, renormalise: bool) -> _Choice:  # noqa: FBT001
    return _choose(logits, chosen, renormalise=False)


def _by_number(logits: Sequence[float], chosen: int, renormalise: bool) -> _Choice:  # noqa: FBT001
    return sorted(_choose(logits, chosen, renormalise))


def _smallest(logits: Sequence[float], chosen: int, renormalise: bool) -> _Choice:  # noqa: FBT001
    shares = _softmax(logits)
    worst = _pick([-share for share in shares], chosen)
    whole = sum(shares[expert] for expert in worst) if renormalise else 1.0
    return [(expert, shares[expert] / whole) for expert in worst]


def _raw_logits(logits: Sequence[float], chosen: int, renormalise: bool) -> _Choice:  # noqa: FBT001
    return [(expert, logits[expert]) for expert in _pick(logits, chosen)]


EXPERT_CHOICE = Exercise(
    id="8.1",
    title="Be the router",
    signature="choose_experts(logits, chosen, renormalise) → [(expert, share), …]",
    difficulty=2,
    minutes=15,
    hints=(
        "Three steps: turn all logits into shares that add up to 1, keep the largest, and decide what their sum should "
        "be.",
        "Softmax goes over all experts, before any is left out. Sort the experts by share, largest first, and cut. "
        "With renormalise the shares that are left are divided by their sum.",
        "exp(x - max(logits)) never overflows. best = sorted(range(len(shares)), key=lambda e: -shares[e])[:chosen]; "
        "then a list of (e, shares[e] / whole), where whole is the sum of the kept shares, or 1.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(_always, "these add up to 1 although renormalise is False: softmax goes over all experts, then cut"),
        Mistake(_never, "with renormalise the kept shares are divided by their sum"),
        Mistake(_by_number, "the right experts, in order of their numbers: put the largest share first"),
        Mistake(_smallest, "those are the experts that the token wants least"),
        Mistake(_raw_logits, "these are logits; softmax turns them into shares"),
    ),
)
