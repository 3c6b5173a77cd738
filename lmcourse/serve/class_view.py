"""take_snapshot: who of a class runs what now, how many KV blocks each holds, and how fast tokens come.

    accounts (who asked, tokens by the second)  ┐
    loads (running, waiting, blocks by account) ├─→ one table, who wrote most in the last minute first
    stats (the pool, the batch)                 ┘

The idea: everything is counted anyway when it happens, so that looking costs one pass over the students, and that is
made a few at a time: between two portions the server does its work. No prompt, no answer and no key is in it.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lmcourse.engine import AccountLoad, EngineStats
from lmcourse.serve.class_quotas import Account
from lmcourse.serve.class_work import HISTORY_SECONDS, Tally

__all__ = ["Moment", "snapshot_in_portions", "take_snapshot"]

_RATE_SECONDS = 10  # that a speed is the mean of
_STEP_SECONDS = 2  # of a history
_MOST_ANSWERS = 8  # shown of one student
_PORTION = 25  # students
_NOTHING = AccountLoad()
_QUIET = [0.0] * (HISTORY_SECONDS // _STEP_SECONDS)


@dataclass(frozen=True)
class Moment:
    """What is known of a server at one moment."""

    now: float  # by the accounts' clock
    model: str
    started_at: int
    places: int
    stats: EngineStats
    loads: Mapping[str | None, AccountLoad]
    written: Tally  # everybody's


@dataclass(frozen=True)
class _Sums:
    """What shares are shares of."""

    num_blocks: int
    tokens_in_rate: int


def take_snapshot(moment: Moment, accounts: Sequence[Account]) -> dict[str, Any]:
    """The fields of schema.ClassAnswer, all at once."""
    portions = snapshot_in_portions(moment, accounts)
    try:
        while True:
            next(portions)
    except StopIteration as end:
        found: dict[str, Any] = end.value
        return found


def snapshot_in_portions(moment: Moment, accounts: Sequence[Account]) -> Generator[None, None, dict[str, Any]]:
    """The same, yielding after a few students each; what they do meanwhile may be in it or not."""
    by_second = moment.written.last_minute(moment.now)
    sums = _Sums(moment.stats.num_blocks, sum(by_second[-_RATE_SECONDS:]))
    elsewhere, students = list(by_second), []
    for number, account in enumerate(accounts, start=1):
        own = account.written.last_minute(moment.now)
        students.append(_describe_student(account, moment, sums, own))
        if students[-1]["tokens_last_minute"]:
            elsewhere = [max(0, all_ - one) for all_, one in zip(elsewhere, own, strict=True)]
        if number % _PORTION == 0:
            yield
    students.sort(key=lambda row: (-row["tokens_last_minute"], -row["num_answers"], row["name"]))
    others = _describe_use(moment.loads.get(None, _NOTHING), sums, elsewhere)
    return {**_describe_whole(moment, by_second), "students": students, "others": others}


def _describe_whole(moment: Moment, by_second: list[int]) -> dict[str, Any]:
    stats = moment.stats
    return {
        "model": moment.model,
        "taken_at": time.time(),
        "started_at": moment.started_at,
        "places": moment.places,
        "running": stats.num_running,
        "waiting": stats.num_waiting,
        **_describe_speed(by_second),
        "pool": {
            "blocks": stats.num_blocks,
            "used": stats.num_blocks - stats.num_free_blocks - stats.num_cached_blocks,
            "kept": stats.num_cached_blocks,
            "free": stats.num_free_blocks,
            "tokens_per_block": stats.tokens_per_block,
        },
    }


def _describe_student(account: Account, moment: Moment, sums: _Sums, by_second: list[int]) -> dict[str, Any]:
    return {
        "name": account.student.name,
        **_describe_use(moment.loads.get(account.student.name, _NOTHING), sums, by_second),
        "answers": [
            {"model": moment.model, "age_seconds": round(moment.now - work.asked_at, 1), "tokens": work.num_tokens}
            for work in islice(account.works, _MOST_ANSWERS)
        ],
        "num_answers": account.num_open,
        "tokens_total": account.num_tokens,
        "refused": account.num_refused,
        "quotas": {name: {"limit": limit, "left": left} for name, (limit, left) in account.count_left().items()},
    }


def _describe_use(load: AccountLoad, sums: _Sums, by_second: list[int]) -> dict[str, Any]:
    speed = _describe_speed(by_second)
    return {
        "running": load.num_running,
        "waiting": load.num_waiting,
        "blocks": load.num_blocks,
        "pool_share": round(load.num_blocks / max(1, sums.num_blocks), 4),
        **speed,
        "throughput_share": round(speed["tokens_per_second"] * _RATE_SECONDS / max(1, sums.tokens_in_rate), 4),
    }


def _describe_speed(by_second: list[int]) -> dict[str, Any]:
    if not any(by_second):
        return {"tokens_per_second": 0.0, "tokens_last_minute": 0, "history": _QUIET}
    return {
        "tokens_per_second": sum(by_second[-_RATE_SECONDS:]) / _RATE_SECONDS,
        "tokens_last_minute": sum(by_second),
        "history": [(one + two) / _STEP_SECONDS for one, two in zip(by_second[::2], by_second[1::2], strict=True)],
    }
