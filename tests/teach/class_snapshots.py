"""Snapshots of classes that never were, in the server's form."""

from __future__ import annotations

import random
from typing import Any


def make_snapshot(rng: random.Random, names: list[str], *, num_busy: int) -> dict[str, Any]:
    """The first `num_busy` are at work."""
    rows = [_row(rng, name, busy=place < num_busy) for place, name in enumerate(names)]
    speed = sum(row["tokens_per_second"] for row in rows)
    for row in rows:
        row["throughput_share"] = row["tokens_per_second"] / speed if speed else 0.0
    used = sum(row["blocks"] for row in rows)
    return {
        "model": "m", "taken_at": 1_700_000_000.0, "started_at": 1, "places": 16,
        "running": sum(row["running"] for row in rows), "waiting": sum(row["waiting"] for row in rows),
        "tokens_per_second": speed, "tokens_last_minute": sum(row["tokens_last_minute"] for row in rows),
        "history": [speed] * 30,
        "pool": {"blocks": used + 50, "used": used, "kept": 10, "free": 40, "tokens_per_block": 64},
        "students": sorted(rows, key=lambda row: -row["tokens_last_minute"]),
        "others": {"running": 0, "waiting": 0, "blocks": 0, "pool_share": 0.0, "tokens_per_second": 0.0,
                   "throughput_share": 0.0, "tokens_last_minute": 0, "history": [0.0] * 30},
    }  # fmt: skip


def _row(rng: random.Random, name: str, *, busy: bool) -> dict[str, Any]:
    running, waiting = (rng.randrange(1, 4), rng.randrange(12)) if busy else (0, 0)
    minute = rng.randrange(60, 900) if busy else 0
    return {
        "name": name, "running": running, "waiting": waiting, "blocks": 5 * running, "pool_share": running / 100,
        "tokens_per_second": minute / 60, "throughput_share": 0.0, "tokens_last_minute": minute,
        "history": [minute / 60] * 30, "answers": [{"model": "m", "age_seconds": 3.2, "tokens": 41}] if busy else [],
        "num_answers": running + waiting, "tokens_total": 3 * minute, "refused": rng.randrange(3) if busy else 0,
        "quotas": {"tokens_per_minute": {"limit": 1000, "left": 1000 - minute},
                   "max_concurrent": {"limit": 9, "left": 0}} if busy else {},
    }  # fmt: skip
