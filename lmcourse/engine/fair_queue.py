"""FairQueue: whoever got least is next. Each account's tokens are counted (virtual token counters, arXiv 2401.00588).

    served tokens   Ada 310 ▏ Ben 295 ← next ▏ Cem 402 ▏ Dai, new: starts at 295

Counted are prompt tokens that the cache does not have, all of them on admission (an abort takes nothing back), and each
sampled token; what preemption makes to be computed again is free. n answers are n requests of one account. Present is
who has work, or had some a moment ago. Who comes is lifted to the lowest of those present, so that nobody saves up.

Places: the first num_easy (up to there a step takes hardly longer) go to the lowest counter that waits. More run only
of an account that nobody present is behind, and in the last eighth only if nothing of it runs: newcomers find a place.

Contract: with prompts of at most L tokens, answers of A and K places, the service of two accounts that both wait all
the time differs by at most 2 (L + K A), weighted. Every request ends: the oldest running one never gives way; who does
is first in its account's line; and each first admission raises a counter of whole tokens, so that each of finitely many
accounts becomes the lowest, and stays it until its first in line runs, behind a number of older ones that only falls.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

from lmcourse.engine.queues import Window
from lmcourse.engine.request import Request

if TYPE_CHECKING:
    from lmcourse.engine.scheduler import Chunk

__all__ = ["EASY_PLACES", "FairQueue"]

EASY_PLACES = {"cpu": 1, "cuda": 64}  # by device: so many requests in a step hardly slow each other
_LINGER_STEPS = 16  # who asks again within these was never away: an answer's end and the next question are apart
_NEWCOMERS_SHARE = 8  # one place of so many is kept for accounts with nothing running


@dataclass
class _Line:
    """One account: its counter, how many of its requests run, those that gave way, those that never ran."""

    served: int = 0
    num_running: int = 0
    given_way: deque[Request] = field(default_factory=deque)  # the oldest first
    waiting: deque[Request] = field(default_factory=deque)
    last_step: int = 0  # in which it had work

    def choose(self, window: Window, most: int) -> deque[Request]:
        """The first of its line, among those that a quarantine lets in."""
        line: Iterable[Request] = chain(self.given_way, self.waiting)
        if window is not None:
            line = (request for request in line if window[0] <= request.request_id <= window[1])
        return deque(islice(line, most))

    def leave(self, request: Request) -> None:
        """Take a waiting request out of the line."""
        (self.given_way if request in self.given_way else self.waiting).remove(request)

    def is_present(self, num_steps: int) -> bool:
        """Whether it has work, or had some a moment ago."""
        return bool(self.waiting or self.given_way or self.num_running) or num_steps - self.last_step < _LINGER_STEPS


class FairQueue:
    """The lines of all accounts; requests of nobody in particular (None) are one account of their own."""

    def __init__(self, *, num_easy: int = 8, prompt_weight: int = 1, answer_weight: int = 1) -> None:
        """num_easy: requests that may run before anybody is held back; weights: what a token counts."""
        self._num_easy, self._prompt_weight, self._answer_weight = num_easy, prompt_weight, answer_weight
        self._lines: dict[str | None, _Line] = {}
        self._turns: dict[int, int] = {}  # by request id: the first admission; who has one has paid for the prompt
        self._num_turns = self._num_steps = 0

    def __len__(self) -> int:
        return sum(len(line.waiting) + len(line.given_way) for line in self._lines.values())

    def __iter__(self) -> Iterator[Request]:
        return chain(*(part for line in tuple(self._lines.values()) for part in (line.given_way, line.waiting)))

    def served(self) -> dict[str | None, int]:
        """Each account's counter: weighted tokens, and what it was lifted by."""
        return {account: line.served for account, line in tuple(self._lines.items())}

    def add(self, request: Request) -> None:
        """To the end of its account's line."""
        line = self._lines.get(request.account)
        if line is None or not line.is_present(self._num_steps):
            present = [other.served for other in self._lines.values() if other.is_present(self._num_steps)]
            line = self._lines.setdefault(request.account, _Line())
            line.served = max(line.served, min(present, default=0))
        line.waiting.append(request)

    def candidates(self, running: Sequence[Request], num_places: int, window: Window) -> Iterator[Request]:
        """By the rules above; of one account, first those that gave way."""
        served = {account: line.served for account, line in self._lines.items() if line.is_present(self._num_steps)}
        held = {account: self._lines[account].num_running for account in served}
        lines = {account: self._lines[account].choose(window, num_places - len(running)) for account in served}
        kept = num_places // _NEWCOMERS_SHARE or int(num_places > 1)
        for num_taken in range(len(running), num_places):
            free = num_taken >= num_places - kept
            asking = [account for account in lines if lines[account] and not (free and held[account])]
            if not asking:
                return
            account = min(asking, key=lambda name: (served[name], lines[name][0].request_id))
            if num_taken >= min(self._num_easy, num_places - kept) and served[account] > min(served.values()):
                return
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
        self._num_steps += 1
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
        line.last_step = self._num_steps

    def restart(self, requests: Iterable[Request]) -> None:
        """Counters stay, and what was paid; turns are taken anew."""
        waiting = list(requests)
        paid = self._turns.keys() & {request.request_id for request in waiting}
        self._turns = dict.fromkeys(paid, 0)
        for line in self._lines.values():
            line.num_running, line.given_way, line.waiting = 0, deque(), deque()
        for request in waiting:
            self._lines.setdefault(request.account, _Line()).waiting.append(request)

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
