"""Accounts: what each student of a class has used, and the refusal once a quota is spent.

    used in the last minute │ ·····■■■··■■■■│ now      frees when enough of the oldest leave the window

The idea: tokens are charged as they come, since nobody knows beforehand how long an answer gets. A request starts
while there is any room, so the last one may overdraw; the window lets the next in once the sum is below the limit.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar

from lmcourse.serve.class_roster import Student
from lmcourse.serve.errors import QuotaSpentError

__all__ = ["ACCOUNT", "Account", "NoAccount"]

_MINUTE, _HOUR = 60.0, 3600.0  # seconds


class Account:
    """One student's use. All calls come from the server's event loop."""

    def __init__(self, student: Student, clock: Callable[[], float] = time.monotonic) -> None:
        self.student, self._clock = student, clock
        self.name: str | None = student.name
        self.num_open = 0  # answers that are being made or wait
        self.num_tokens = 0
        self._charges: deque[tuple[float, int]] = deque()  # second, tokens in it; not older than an hour

    def open(self, count: int) -> None:
        """`count` more answers begin; QuotaSpentError if a quota forbids them, and then nothing has changed."""
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
        self.num_open += count

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
        while self._charges and self._charges[0][0] <= now - _HOUR:
            self._charges.popleft()
        recent = [(at, count) for at, count in self._charges if at > now - window_seconds]
        left = sum(count for _, count in recent)
        wait = 0.0
        for at, count in recent:
            if left < limit:
                break
            left, wait = left - count, at + window_seconds - now
        return wait

    def charge(self, num_tokens: int) -> None:
        """So many tokens more, of a prompt or an answer."""
        self.num_tokens += num_tokens
        second = float(int(self._clock())) + 1.0  # rounded up: never freed too early
        if self._charges and self._charges[-1][0] == second:
            self._charges[-1] = (second, self._charges[-1][1] + num_tokens)
        else:
            self._charges.append((second, num_tokens))

    def close(self, count: int) -> None:
        """`count` answers have ended, whichever way."""
        self.num_open -= count


class NoAccount:
    """Of somebody who is in no class: nothing is counted, nothing refused."""

    name: str | None = None

    def open(self, count: int) -> None:
        """Always."""

    def charge(self, num_tokens: int) -> None:
        """For nothing."""

    def close(self, count: int) -> None:
        """Nothing to do."""


_NOBODY = NoAccount()
ACCOUNT: ContextVar[Account | NoAccount] = ContextVar("account", default=_NOBODY)  # of whoever sent this request
