"""Accounts: what each student of a class has used, and the refusal once a quota is spent.

    used in the last minute │ ·····■■■··■■■■│ now      frees when enough of the oldest leave the window

The idea: tokens are charged as they come, since nobody knows beforehand how long an answer gets. A request starts
while there is any room, so the last one may overdraw; the window lets the next in once the sum is below the limit.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar

from lmcourse.serve.class_roster import Student
from lmcourse.serve.class_work import Tally, Work
from lmcourse.serve.errors import QuotaSpentError

__all__ = ["ACCOUNT", "Account", "NoAccount"]

_MINUTE, _HOUR = 60.0, 3600.0  # seconds


class Account:
    """One student's use. All calls come from the server's event loop."""

    def __init__(self, student: Student, clock: Callable[[], float] = time.monotonic) -> None:
        self.student, self._clock = student, clock
        self.name: str | None = student.name
        self.works: dict[Work, None] = {}  # answers that are being made or wait, the oldest first
        self.written = Tally()  # tokens of answers alone
        self.num_tokens = 0  # of prompts and answers, as quotas count them
        self.num_refused = 0  # requests, by a quota
        self._charges: deque[tuple[float, int]] = deque()  # second, tokens in it; not older than an hour
        self._in_last_hour = 0  # sum of these

    @property
    def num_open(self) -> int:
        """Answers that are being made or wait."""
        return len(self.works)

    def open(self, count: int) -> tuple[Work, ...]:
        """`count` more answers begin; QuotaSpentError if a quota forbids them, and then nothing else has changed."""
        try:
            self._check_quota(count)
        except QuotaSpentError:
            self.num_refused += 1
            raise
        works = tuple(Work(self._clock()) for _ in range(count))
        self.works.update(dict.fromkeys(works))
        return works

    def _check_quota(self, count: int) -> None:
        quota, name = self.student.quota, self.student.name
        if quota.tokens_total is not None and self.num_tokens >= quota.tokens_total:
            told = f"{name}: all {quota.tokens_total} tokens (tokens_total) are used"
            raise QuotaSpentError(told, next_step="ask the instructor for more")
        windows = (("tokens_per_hour", quota.tokens_per_hour, _HOUR),
                   ("tokens_per_minute", quota.tokens_per_minute, _MINUTE))  # fmt: skip
        for limit_name, limit, seconds in windows:
            wait = 0.0 if limit is None else self._count_wait(limit, seconds)
            if wait:
                told = f"{name}: {limit} tokens ({limit_name}) are used"
                raise QuotaSpentError(told, retry_after_seconds=wait, next_step=f"ask again in {wait:.0f} s")
        if quota.max_concurrent is not None and self.num_open + count > quota.max_concurrent:
            self._refuse_concurrent(count, quota.max_concurrent)

    def _refuse_concurrent(self, count: int, limit: int) -> None:
        told = f"{self.student.name}: at most {limit} answers at a time (max_concurrent)"
        fits = count <= limit
        raise QuotaSpentError(
            told,
            got=f"{self.num_open} open, {count} more asked for",
            retry_after_seconds=1.0 if fits else None,
            next_step="ask again when one has ended" if fits else "ask for fewer answers in one request",
        )

    def _count_wait(self, limit: int, window_seconds: float) -> float:
        """Seconds until the window holds less than the limit; 0: it does."""
        now = self._clock()
        self._forget(now - _HOUR)
        recent = [(at, count) for at, count in self._charges if at > now - window_seconds]
        left = sum(count for _, count in recent)
        wait = 0.0
        for at, count in recent:
            if left < limit:
                break
            left, wait = left - count, at + window_seconds - now
        return wait

    def count_left(self) -> dict[str, tuple[int, int]]:
        """Of each quota that there is, by name: the limit, and what is left of it; never less than 0."""
        now, quota = self._clock(), self.student.quota
        self._forget(now - _HOUR)
        in_minute = 0
        for at, count in reversed(self._charges):
            if at <= now - _MINUTE:
                break
            in_minute += count
        used = {"max_concurrent": self.num_open, "tokens_per_minute": in_minute,
                "tokens_per_hour": self._in_last_hour, "tokens_total": self.num_tokens}  # fmt: skip
        limits = {name: getattr(quota, name) for name in used}
        return {name: (limit, max(0, limit - used[name])) for name, limit in limits.items() if limit is not None}

    def _forget(self, until: float) -> None:
        """Charges of that time and before."""
        while self._charges and self._charges[0][0] <= until:
            self._in_last_hour -= self._charges.popleft()[1]

    def charge(self, num_tokens: int) -> None:
        """So many tokens more, of a prompt or an answer."""
        now = self._clock()
        self.num_tokens += num_tokens
        self._in_last_hour += num_tokens
        second = float(int(now)) + 1.0  # rounded up: never freed too early
        if self._charges and self._charges[-1][0] == second:
            self._charges[-1] = (second, self._charges[-1][1] + num_tokens)
        else:
            self._charges.append((second, num_tokens))
            self._forget(now - _HOUR)

    def write(self, work: Work, num_tokens: int) -> None:
        """An answer has grown by so many tokens."""
        work.num_tokens += num_tokens
        self.written.add(self._clock(), num_tokens)
        self.charge(num_tokens)

    def close(self, works: Iterable[Work]) -> None:
        """These answers have ended, whichever way."""
        for work in works:
            del self.works[work]


class NoAccount:
    """Of somebody who is in no class: nothing is counted, nothing refused."""

    name: str | None = None

    def open(self, count: int) -> tuple[Work, ...]:
        """Always."""
        return tuple(Work(0.0) for _ in range(count))

    def charge(self, num_tokens: int) -> None:
        """For nothing."""

    def write(self, work: Work, num_tokens: int) -> None:
        """Nothing to do."""

    def close(self, works: Iterable[Work]) -> None:
        """Nothing to do."""


_NOBODY = NoAccount()
ACCOUNT: ContextVar[Account | NoAccount] = ContextVar("account", default=_NOBODY)  # of whoever sent this request
