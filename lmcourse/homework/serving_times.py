"""Exercise 5.3: arrival times of tokens → what a user waits for: TTFT and TPOT, at a percentile.

Lesson: 5 (measuring a server)
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["SERVING_TIMES"]

Request = tuple[int, list[int]]  # sent, arrival of each token; milliseconds


def _nearest_rank(values: Sequence[float], share: int) -> float:
    return sorted(values)[math.ceil(share / 100 * len(values)) - 1]


def _tpot(sent: int, arrivals: list[int]) -> float:
    return (arrivals[-1] - arrivals[0]) / (len(arrivals) - 1)


def _answer(
    requests: Sequence[Request],
    share: int,
    *,
    pick: Callable[[Sequence[float], int], float] = _nearest_rank,
    ttft: Callable[[int, list[int]], float] = lambda sent, arrivals: arrivals[0] - sent,
    tpot: Callable[[int, list[int]], float] = _tpot,
) -> tuple[float, float]:
    firsts = [ttft(sent, arrivals) for sent, arrivals in requests]
    rates = [tpot(sent, arrivals) for sent, arrivals in requests if len(arrivals) > 1]
    return pick(firsts, share), pick(rates, share)


def _random_requests(rng: random.Random, count: int) -> list[Request]:
    """Gaps between tokens vary, their mean is a whole number: so the right answer is exact."""
    requests: list[Request] = []
    for _ in range(count):
        sent = rng.randint(0, 2000)
        first, num_gaps, tpot = sent + rng.randint(20, 900), rng.choice([0, 1, 5, 12]), rng.randint(5, 60)
        between = sorted(first + rng.randint(0, num_gaps * tpot) for _ in range(num_gaps - 1))
        last = [first + num_gaps * tpot] if num_gaps else []
        requests.append((sent, [first, *between, *last]))
    return [*requests, (100, [150, 170, 190])]  # at least one with a second token


def _make_cases(rng: random.Random) -> Iterator[Case]:
    fixed: list[Request] = [(0, [200, 250, 300]), (100, [150, 160, 170, 180]), (100, [900]), (0, [400, 440])]
    inputs = [(fixed, 50), (fixed, 99)] + [
        (_random_requests(rng, count), rng.choice([50, 90, 95])) for count in (3, rng.randint(4, 30), 30, 250)
    ]
    for requests, share in inputs:
        shown = f"share={share}, requests={requests[:4]}{'…' if len(requests) > 4 else ''}"
        yield Case(shown, partial(_copied, requests, share), _answer(requests, share))


def _copied(requests: Sequence[Request], share: int) -> tuple[list[Request], int]:
    return [(sent, list(arrivals)) for sent, arrivals in requests], share


def _mean(values: Sequence[float], share: int) -> float:
    return sum(values) / len(values)


def _between_ranks(values: Sequence[float], share: int) -> float:
    """A percentile that may lie between two values, as numpy's default has it."""
    ordered, place = sorted(values), share / 100 * (len(values) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def _every_gap(requests: Sequence[Request], share: int) -> tuple[float, float]:
    gaps = [after - before for _, arrivals in requests for before, after in pairwise(arrivals)]
    return _answer(requests, share)[0], _nearest_rank(gaps, share)


SERVING_TIMES = Exercise(
    id="5.3",
    title="What the slowest feel",
    signature="waiting_times(requests, share) → (TTFT, TPOT)",
    difficulty=2,
    minutes=15,
    hints=(
        "Draw one request on a line: when it was sent, when each token arrived. Which distance is the TTFT? Over how "
        "many gaps does the rest of the answer stretch?",
        "TTFT is first arrival minus sent. TPOT is (last - first) / (number of tokens - 1), and one token alone "
        "has none. Collect both over all requests, sort, and take the value at the percentile.",
        "Nearest rank: of n sorted values take number ceil(share / 100 * n), counted from one, so index "
        "math.ceil(share / 100 * n) - 1. Do that with the list of TTFTs and with the list of TPOTs.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(
            partial(_answer, pick=_between_ranks),
            "this lies between two requests (numpy's default); nearest rank is a time that a request really had",
        ),
        Mistake(_every_gap, "all gaps are in one list; TPOT is one number for each request: its mean gap"),
        Mistake(partial(_answer, pick=_mean), "these are means; a percentile was asked for"),
        Mistake(
            partial(_answer, tpot=lambda sent, arrivals: (arrivals[-1] - arrivals[0]) / len(arrivals)),
            "between n tokens there are n - 1 gaps",
        ),
        Mistake(
            partial(_answer, tpot=lambda sent, arrivals: (arrivals[-1] - sent) / len(arrivals)),
            "your TPOT includes the wait for the first token, which is the TTFT's",
        ),
        Mistake(
            partial(_answer, ttft=lambda sent, arrivals: arrivals[0]),
            "the TTFT counts from the moment at which this request was sent",
        ),
        Mistake(
            partial(
                _answer, pick=lambda values, share: sorted(values)[min(int(share / 100 * len(values)), len(values) - 1)]
            ),
            "one place too far: nearest rank is index ceil(share / 100 * n) - 1",
        ),
    ),
)
