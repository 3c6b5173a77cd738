"""FairQueue: whoever got least is next. Each account's tokens are counted (virtual token counters, arXiv 2401.00588).

    served tokens   Ada 310 ▏ Ben 295 ← next ▏ Cem 402 ▏ Dai, new: starts at 295

Counted are prompt tokens that the cache does not have, all of them on admission (an abort takes nothing back), and each
sampled token; what preemption makes to be computed again is free. n answers are n requests of one account. Present is
who has work, and who had some a moment ago: for twice as long as that took, 0.25 to 2 s. Who comes is lifted to the
lowest of those present; who was present has at most one visit's tokens less than that, so that nobody saves up.

Places: the first num_easy (up to there a step takes hardly longer) go to the lowest counter that waits. More run only
of an account that nobody with work is behind; a second one only if nobody present is. In the last eighth only firsts.

Contract: with prompts of at most L tokens, answers of A and K places, the service of two accounts that both wait all
the time differs by at most 2 (L + K A), weighted. Every request ends: the oldest running one never gives way, and a
first admission raises a counter, so that each of finitely many accounts gets to be the lowest, and its first then runs.
Lesson: 5 (serving a class)
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

from lmcourse.engine.queues import Window
from lmcourse.engine.request import Request

if TYPE_CHECKING:
    from lmcourse.engine.scheduler import Chunk

__all__ = ["EASY_PLACES", "FairQueue"]

EASY_PLACES = {"cpu": 1, "cuda": 64}  # by device: so many requests in a step hardly slow each other
# Who asks again within this many times what the last visit took was never away: it has had work a third of the time.
# A fixed span either cuts off students of a slow machine, or has a machine wait for people who read and think.
_LINGER, _SHORTEST_LINGER_SECONDS, _LONGEST_LINGER_SECONDS = 2.0, 0.25, 2.0
_NEWCOMERS_SHARE = 8  # one place of so many is kept for accounts with nothing running


@dataclass
class _Line:
    """One account: its counter, how many of its requests run, those that gave way, those that never ran."""

    came_at: float  # seconds, when its visit began: since then it has had work, or until it left
    served: int = 0
    served_before: int = 0  # this visit
    left_at: float = -math.inf
    num_running: int = 0
    given_way: deque[Request] = field(default_factory=deque)  # the oldest first
    waiting: deque[Request] = field(default_factory=deque)

    @property
    def has_work(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.waiting or self.given_way or self.num_running)

    def is_awaited(self, now: float) -> bool:
        """Whether it has no work, but had some a moment ago."""
        span = max(_SHORTEST_LINGER_SECONDS, _LINGER * (self.left_at - self.came_at))
        return not self.has_work and now - self.left_at < min(span, _LONGEST_LINGER_SECONDS)

    def come(self, now: float, level: int) -> None:
        """A visit begins; `level` is the least counter of the others."""
        kept = self.served - self.served_before if self.is_awaited(now) else 0
        self.served = self.served_before = max(self.served, level - kept)
        self.came_at = now

    def choose(self, window: Window, most: int) -> deque[Request]:
        """The first of its line, among those that a quarantine lets in."""
        line: Iterable[Request] = chain(self.given_way, self.waiting)
        if window is not None:
            line = (request for request in line if window[0] <= request.request_id <= window[1])
        return deque(islice(line, most))

    def leave(self, request: Request) -> None:
        """Take a waiting request out of the line."""
        (self.given_way if request in self.given_way else self.waiting).remove(request)


class FairQueue:
    """The lines of all accounts; requests of nobody in particular (None) are one account of their own."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        num_easy: int = 8,
        prompt_weight: int = 1,
        answer_weight: int = 1,
    ) -> None:
        """num_easy: requests that may run before anybody is held back; weights: what a token counts; clock: seconds."""
        self._clock = clock
        self._num_easy, self._prompt_weight, self._answer_weight = num_easy, prompt_weight, answer_weight
        self._lines: dict[str | None, _Line] = {}
        self._turns: dict[int, int] = {}  # by request id: the first admission; who has one has paid for the prompt
        self._num_turns = 0
        self._last_level = 0  # the counter of who left last, where newcomers start if nobody is present

    def __len__(self) -> int:
        return sum(len(line.waiting) + len(line.given_way) for line in self._lines.values())

    def __iter__(self) -> Iterator[Request]:
        return chain(*(part for line in tuple(self._lines.values()) for part in (line.given_way, line.waiting)))

    def served(self) -> dict[str | None, int]:
        """Each account's counter: weighted tokens, and what it was lifted by."""
        return {account: line.served for account, line in tuple(self._lines.items())}

    def add(self, request: Request) -> None:
        """To the end of its account's line."""
        now = self._clock()
        line = self._lines.setdefault(request.account, _Line(now))
        if not line.has_work:
            others = [other for other in self._lines.values() if other is not line]
            present = [other.served for other in others if other.has_work or other.is_awaited(now)]
            line.come(now, min(present, default=self._last_level))
        line.waiting.append(request)

    def candidates(self, running: Sequence[Request], num_places: int, window: Window) -> Iterator[Request]:
        """By the rules above; of one account, first those that gave way."""
        now = self._clock()
        busy = {account: line for account, line in self._lines.items() if line.has_work}
        awaited = min((line.served for line in self._lines.values() if line.is_awaited(now)), default=math.inf)
        served = {account: line.served for account, line in busy.items()}
        held = {account: line.num_running for account, line in busy.items()}
        lines = {account: line.choose(window, num_places - len(running)) for account, line in busy.items()}
        kept = num_places // _NEWCOMERS_SHARE or int(num_places > 1)
        for num_taken in range(len(running), num_places):
            asking = [account for account in lines if lines[account]]
            if num_taken >= num_places - kept:
                asking = [account for account in asking if not held[account]]
            if num_taken >= min(self._num_easy, num_places - kept):
                least = min(served.values())
                most = {False: least, True: min(least, awaited)}
                asking = [account for account in asking if served[account] <= most[held[account] > 0]]
            if not asking:
                return
            account = min(asking, key=lambda name: (served[name], lines[name][0].request_id))
            request = lines[account].popleft()
            yield request
            held[account] += 1
            served[account] += self._price(request, 0)

    def _price(self, request: Request, num_found: int) -> int:
        """What admitting it counts: nothing if it was admitted before."""
        return 0 if request.request_id in self._turns else self._prompt_weight * (request.prompt_len - num_found)

    def admit(self, request: Request, num_found: int) -> None:
        """Its account pays for the prompt, once."""
        line = self._lines[request.account]
        line.leave(request)
        line.num_running += 1
        line.served += self._price(request, num_found)
        if not self._turns.get(request.request_id):
            self._num_turns += 1
            self._turns[request.request_id] = self._num_turns

    def give_way(self, request: Request) -> None:
        """To the front of its account's line."""
        line = self._lines[request.account]
        line.num_running -= 1
        line.given_way.appendleft(request)

    def charge(self, chunks: Iterable[Chunk]) -> None:
        """Each token that is sampled."""
        for request, _, _, samples in chunks:
            if samples:
                self._lines[request.account].served += self._answer_weight

    def end(self, request: Request, *, runs: bool) -> None:
        """Its account's counter stays."""
        line = self._lines[request.account]
        if runs:
            line.num_running -= 1
        else:
            line.leave(request)
        self._turns.pop(request.request_id, None)
        if not line.has_work:
            line.left_at, self._last_level = self._clock(), line.served

    def restart(self, requests: Iterable[Request]) -> None:
        """Counters stay, and what was paid; turns are taken anew."""
        waiting = list(requests)
        paid = self._turns.keys() & {request.request_id for request in waiting}
        self._turns = dict.fromkeys(paid, 0)
        for line in self._lines.values():
            line.num_running, line.given_way, line.waiting = 0, deque(), deque()
        for request in waiting:
            self._lines.setdefault(request.account, _Line(self._clock())).waiting.append(request)

    def check(self, running: Sequence[Request], window: Window) -> None:
        """In each account running ones, those that gave way and the rest stand in the order of their first turns."""
        for account, line in self._lines.items():
            own = [request for request in running if request.account == account]
            assert line.num_running == len(own), f"{account}: {line.num_running} running, found {len(own)}"
            admitted = [own, list(line.given_way)] if window else [[*own, *line.given_way]]
            for requests in admitted:
                turns = [self._turns[request.request_id] for request in requests]
                assert turns == sorted(set(turns)), f"{account}: not the order of admission: {turns}"
            ids = [request.request_id for request in line.waiting]
            assert ids == sorted(set(ids)), f"{account}: not the order of arrival: {ids}"
            waiting = chain(line.given_way, line.waiting)
            assert all(request.account == account for request in waiting), f"{account}: others in its line"
