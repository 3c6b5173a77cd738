"""Hints, three for each exercise, from a nudge to nearly the way: `hint("1.1")` opens the next one.

Which hints were opened is remembered by one HintBook as long as the notebook's kernel lives.

Lesson: 9 (homework)
"""

from __future__ import annotations

from lmcourse.errors import ConfigError
from lmcourse.homework.progress_file import note_hint
from lmcourse.homework.registry import find_exercise

__all__ = ["Hint", "HintBook", "hint"]


class Hint(str):
    """A hint's text; shows itself as prose in a notebook, without quotation marks in a terminal."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        return f"> {self}"


class HintBook:
    """Remembers, per exercise, the highest level that was opened."""

    def __init__(self) -> None:
        self._opened: dict[str, int] = {}

    def open(self, exercise_id: str, level: int | None = None) -> Hint:
        """The hint of that level, 1 to 3, or the next one; after the last the last again."""
        exercise = find_exercise(exercise_id)
        levels = len(exercise.hints)
        chosen = min(self._opened.get(exercise_id, 0) + 1, levels) if level is None else level
        if isinstance(chosen, bool) or chosen not in range(1, levels + 1):
            raise ConfigError(
                f"exercise {exercise_id} has no hint of level {level!r}",
                expected=f"1 to {levels}, or none",
                got=repr(level),
            )
        self._opened[exercise_id] = max(chosen, self._opened.get(exercise_id, 0))
        return Hint(f"Hint {chosen} of {levels} for {exercise_id}: {exercise.hints[chosen - 1]}")

    def highest(self, exercise_id: str) -> int:
        """The highest level that was opened; 0 before the first."""
        return self._opened.get(exercise_id, 0)


_BOOK = HintBook()


def hint(exercise_id: str, level: int | None = None) -> Hint:
    """The next hint of an exercise, or the one of a given level (1 to 3)."""
    opened = _BOOK.open(exercise_id, level)
    note_hint(exercise_id, _BOOK.highest(exercise_id))
    return opened
