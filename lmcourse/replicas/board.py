"""The board: where replicas write how they are, and the operator what he wants. One small actor, restarted if it dies.

    replicas ─→ post(name, note) every half second ─→ read() ←─ the front: /metrics, /health, /class, admission
    operator ─→ restart()                          ─→ generation ←─ the keeper, who replaces the replicas one by one

The idea: nobody asks replicas one by one, so a slow or dead one holds nobody up: its note grows old and is dropped. One
that has said nothing for long is silent: it hangs or is dead, and nobody should wait for it, whatever its process does.

Lesson: 5 (watching several engines)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lmcourse.engine.stats import AccountLoad, EngineStats

__all__ = ["Board", "Note", "View", "add_up", "add_up_loads"]

_OLD_SECONDS, _SILENT_SECONDS = 5.0, 10.0
_FORGOTTEN_SECONDS = 3600.0  # long after its process was ended


@dataclass(frozen=True)
class Note:
    """How one replica is."""

    name: str
    pid: int
    node: str
    generation: int
    max_batch_size: int
    stats: dict[str, Any]  # EngineStats
    loads: dict[str | None, dict[str, int]] = field(default_factory=dict)  # AccountLoad by account
    broken: bool = False  # its engine will not answer again


@dataclass(frozen=True)
class View:
    """All that is on the board."""

    generation: int = 0
    notes: dict[str, Note] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()  # replicas whose engine broke, or that have said nothing for long


class Board:
    """Notes by replica, and the generation that is wanted. Runs as a Ray actor: one call at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._notes: dict[str, tuple[float, Note]] = {}
        self._generation = 0

    def post(self, note: Note) -> None:
        """How a replica is, now."""
        self._notes[note.name] = (self._clock(), note)
        self._generation = max(self._generation, note.generation)  # a board that was restarted learns it again

    def take_down(self, name: str) -> None:
        """A replica leaves."""
        self._notes.pop(name, None)

    def read(self) -> View:
        """The notes that are fresh, and whose have not been renewed for long."""
        now = self._clock()
        self._notes = {name: entry for name, entry in self._notes.items() if now - entry[0] < _FORGOTTEN_SECONDS}
        fresh, silent = dict[str, Note](), set[str]()
        for name, (told_at, note) in self._notes.items():
            if note.broken or now - told_at >= _SILENT_SECONDS:
                silent.add(name)
            elif now - told_at < _OLD_SECONDS:
                fresh[name] = note
        return View(self._generation, fresh, frozenset(silent))

    def restart(self) -> int:
        """Ask for a new generation of replicas; its number."""
        self._generation += 1
        return self._generation


def add_up(notes: Iterable[Note]) -> EngineStats:
    """Several engines as one: sums, but the session that fits each of them, and one block's size."""
    all_stats: list[Mapping[str, Any]] = [note.stats for note in notes]
    if not all_stats:
        return EngineStats(**{each.name: 0 for each in fields(EngineStats)})
    sums = {each.name: sum(stats[each.name] for stats in all_stats) for each in fields(EngineStats)}
    least = {name: min(stats[name] for stats in all_stats) for name in ("session_len", "tokens_per_block")}
    return EngineStats(**{**sums, **least})


def add_up_loads(notes: Iterable[Note]) -> dict[str | None, AccountLoad]:
    """What each account has in several engines together."""
    sums: dict[str | None, AccountLoad] = {}
    for note in notes:
        for account, load in note.loads.items():
            had = asdict(sums.get(account, AccountLoad()))
            sums[account] = AccountLoad(**{name: had[name] + load[name] for name in had})
    return sums
