"""Exercise 7.1: times of two programs in turns → how many times faster, and whether the measurement can tell.

Lesson: 7 (when a difference is one)
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["SPEEDUP"]


def _answer(
    ours: Sequence[float],
    theirs: Sequence[float],
    warmups: int,
    *,
    middle: Callable[[Sequence[float]], float] = statistics.median,
    certain: Callable[[Sequence[float], Sequence[float]], bool] | None = None,
) -> tuple[float, bool]:
    ours, theirs = ours[warmups:], theirs[warmups:]
    return middle(theirs) / middle(ours), (certain or _apart)(ours, theirs)


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    return max(ours) < min(theirs) or max(theirs) < min(ours)


def _random_times(rng: random.Random, count: int, around: float, wobble: float) -> list[float]:
    times = [round(around * rng.uniform(1, 1 + wobble), 3) for _ in range(count)]
    return [round(3 * times[0], 3), *times[1:]]  # the first compiles, reads files, fills caches


_SPANS = (  # from and to, of ours and of theirs: they mix, one lies within the other, they touch, they are apart
    ((1.0, 2.0), (1.5, 2.5)),
    ((1.5, 2.5), (1.0, 2.0)),
    ((1.0, 3.0), (1.5, 2.0)),
    ((1.5, 2.0), (1.0, 3.0)),
    ((1.0, 2.0), (2.0, 3.0)),
    ((2.0, 3.0), (1.0, 2.0)),
    ((1.0, 2.0), (2.1, 3.0)),
    ((2.1, 3.0), (1.0, 2.0)),
)
_Span = tuple[float, float]


def _side_by_side(rng: random.Random, ours: _Span, theirs: _Span) -> tuple[list[float], list[float], int]:
    """Runs that reach both ends of their spans, in any order, after a slow first one."""
    sides = []
    for low, high in (ours, theirs):
        runs = [low, high, *(round(rng.uniform(low, high), 3) for _ in range(rng.randint(1, 4)))]
        rng.shuffle(runs)
        sides.append([9.0, *runs])
    return sides[0], sides[1], 1


def _make_cases(rng: random.Random) -> Iterator[Case]:
    inputs: list[tuple[list[float], list[float], int]] = [
        ([9.0, 1.0, 1.2, 1.1], [4.0, 2.0, 2.4, 2.2], 1),
        ([5.0, 1.0, 2.0, 1.3], [5.0, 1.4, 1.5, 1.6], 1),
        ([5.0, 1.0, 1.5, 1.4, 1.1], [5.0, 1.6, 1.45, 1.7, 1.8], 1),
        ([2.0, 2.2, 2.1], [1.0, 1.9, 1.1], 0),
        ([8.0, 6.0, 3.0, 3.5, 9.0, 3.1], [8.0, 7.0, 2.9, 2.5, 2.8, 2.4], 2),
    ]
    for _ in range(6):
        warmups, count, wobble = rng.randint(1, 3), rng.randint(3, 8), rng.choice([0.02, 0.3, 0.8])
        sides = [_random_times(rng, warmups + count, rng.uniform(0.5, 1.2), wobble) for _ in range(2)]
        inputs.append((sides[0], sides[1], warmups))
    inputs += [_side_by_side(rng, *spans) for spans in _SPANS]
    for ours, theirs, warmups in inputs:
        shown = f"ours={ours}, theirs={theirs}, warmups={warmups}"
        yield Case(shown, partial(_copied, ours, theirs, warmups), _answer(ours, theirs, warmups))


def _copied(ours: Sequence[float], theirs: Sequence[float], warmups: int) -> tuple[list[float], list[float], int]:
    return list(ours), list(theirs), warmups


SPEEDUP = Exercise(
    id="7.1",
    title="When a difference is one",
    signature="speedup(ours, theirs, warmups) → (times faster, certain)",
    difficulty=1,
    minutes=12,
    hints=(
        "Mark the times of both programs as dots on one line, ours above, theirs below, without the warm-up runs. "
        "Which dot stands for a program? When would you believe that one program is the faster?",
        "Drop the first `warmups` of each list. The ratio is that of the two medians; a program that needs less time "
        "is faster. `certain` means that the dots do not mix: every run of one lies before every run of the other.",
        "statistics.median(theirs) / statistics.median(ours) is how many times faster ours is. Compare max(ours) with "
        "min(theirs), and, since either may be the faster, max(theirs) with min(ours).",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(
            lambda ours, theirs, warmups: _answer(ours, theirs, 0),
            "the warm-up runs are still in: drop the first `warmups` times of both lists",
        ),
        Mistake(
            lambda ours, theirs, warmups: _answer(theirs, ours, warmups),
            "the ratio is upside down: half the time is twice as fast",
        ),
        Mistake(
            partial(_answer, middle=statistics.mean),
            "these are means: one slow run moves a mean and leaves the median alone",
        ),
        Mistake(partial(_answer, middle=min), "the best run is luck as much as skill; take the median"),
        Mistake(
            partial(_answer, certain=lambda ours, theirs: max(ours) < min(theirs)),
            "it is also certain when theirs is the faster: look both ways",
        ),
        Mistake(
            partial(_answer, certain=lambda ours, theirs: min(ours) < min(theirs) and max(ours) < max(theirs)),
            "the runs may still overlap: compare the slowest of one side with the fastest of the other",
        ),
        Mistake(
            partial(_answer, certain=lambda ours, theirs: statistics.median(ours) != statistics.median(theirs)),
            "two medians always differ a little; the question is whether the runs overlap",
        ),
    ),
)
