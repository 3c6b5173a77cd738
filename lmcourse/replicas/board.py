"""The board: where replicas write how they are, and the operator what he wants. One small actor, restarted if it dies.

    replicas ─→ post(name, note) every half second ─→ read() ←─ the front: /metrics, /health, admission
    operator ─→ restart()                          ─→ generation ←─ the keeper, who replaces the replicas one by one

The idea: nobody asks replicas one by one, so a slow or dead one holds nobody up: its note grows old and is dropped.

Lesson: 5 (watching several engines)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lmcourse.engine.stats import EngineStats

__all__ = ["Board", "Note", "View", "add_up"]

_OLD_SECONDS = 5.0


@dataclass(frozen=True)
class Note:
    """How one replica is."""

    name: str
    pid: int
    node: str
    generation: int
    max_batch_size: int
    stats: dict[str, Any]  # EngineStats


@dataclass(frozen=True)
class View:
    """All that is on the board."""

    generation: int = 0
    notes: dict[str, Note] = field(default_factory=dict)


class Board:
    """Notes by replica, and the generation that is wanted. Runs as a Ray actor: one call at a time."""

    def __init__(self) -> None:
        self._notes: dict[str, tuple[float, Note]] = {}
        self._generation = 0

    def post(self, note: Note) -> None:
        """How a replica is, now."""
        self._notes[note.name] = (time.monotonic(), note)
        self._generation = max(self._generation, note.generation)  # a board that was restarted learns it again

    def take_down(self, name: str) -> None:
        """A replica leaves."""
        self._notes.pop(name, None)

    def read(self) -> View:
        """The notes that are fresh."""
        oldest = time.monotonic() - _OLD_SECONDS
        self._notes = {name: entry for name, entry in self._notes.items() if entry[0] > oldest}
        return View(self._generation, {name: note for name, (_, note) in self._notes.items()})

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
