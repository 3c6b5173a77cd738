"""What a student has done so far: one file, which every check and every opened hint brings up to date.

    {"exercises": {"1.1": {"tries": 3, "best": 0.75, "hints": 1, "seconds": 840, "passed_at": null, …}}, "last": …}

Time is what lies between two signs of life of the same student, counted for the exercise of the second one; a gap of
more than twenty minutes is a pause and counts as none.

Contract: `note_check` and `note_hint` never disturb the notebook: what cannot be saved comes back as a sentence.

Lesson: 9 (homework)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lmcourse.errors import LmcourseError
from lmcourse.homework.exercise import Exercise
from lmcourse.homework.registry import EXERCISES
from lmcourse.homework.student import homework_folder, locked, read_object, write_object

__all__ = ["Row", "Standing", "note_check", "note_hint", "read_rows", "rows_of"]

_PAUSE_SECONDS = 20 * 60


@dataclass(frozen=True)
class Standing:
    """How far one exercise is; times are seconds since 1970."""

    tries: int = 0
    best: float = 0.0
    hints: int = 0
    seconds: float = 0.0
    passed_at: float | None = None
    last_at: float | None = None

    @property
    def done(self) -> bool:
        return self.passed_at is not None

    @classmethod
    def from_json(cls, given: Any) -> Standing:
        """From a file that anyone may have edited: what is no number counts as nothing."""
        given = given if isinstance(given, Mapping) else {}
        numbers = {f.name: given.get(f.name) for f in fields(cls)}
        sound = {n: v for n, v in numbers.items() if isinstance(v, int | float) and not isinstance(v, bool) and v >= 0}
        whole = {n: int(v) if n in ("tries", "hints") else float(v) for n, v in sound.items() if v < 1e12}
        return cls(**whole)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    """One line of the progress view."""

    exercise: Exercise
    standing: Standing
    resume: bool = False


def note_check(exercise_id: str, score: float, *, folder: Path | None = None) -> str | None:
    """A try and how it went. None, or why it could not be saved."""

    def tried(old: Standing, now: float) -> Standing:
        passed_at = old.passed_at if old.done or score < 1 else now
        return replace(old, tries=old.tries + 1, best=max(old.best, float(score)), passed_at=passed_at)

    return _note(exercise_id, tried, folder)


def note_hint(exercise_id: str, level: int, *, folder: Path | None = None) -> str | None:
    """A hint was opened. None, or why that could not be saved."""
    return _note(exercise_id, lambda old, _: replace(old, hints=max(old.hints, level)), folder)


def _note(exercise_id: str, change: Callable[[Standing, float], Standing], folder: Path | None) -> str | None:
    try:
        folder = folder or homework_folder()
        with locked(folder):
            path = folder / "progress.json"
            state = read_object(path)
            exercises = state.get("exercises")
            exercises = exercises if isinstance(exercises, dict) else {}
            now = time.time()
            old = Standing.from_json(exercises.get(exercise_id))
            spent = 0.0 if old.done else _seconds_since(state.get("last"), now)
            new = replace(change(old, now), seconds=old.seconds + spent, last_at=now)
            write_object(path, {**state, "exercises": {**exercises, exercise_id: asdict(new)}, "last": now})
    except (LmcourseError, OSError) as error:
        return f"your progress could not be saved: {error}"
    return None


def _seconds_since(last: Any, now: float) -> float:
    """Since the last sign of life; 0 after a pause, before the first, or when the clock was turned."""
    gap = now - last if isinstance(last, int | float) else 0.0
    return gap if 0 < gap <= _PAUSE_SECONDS else 0.0


def read_rows(folder: Path | None = None) -> tuple[Row, ...]:
    """Every exercise of the course, with where this student stands."""
    return rows_of(read_object((folder or homework_folder()) / "progress.json"))


def rows_of(state: Mapping[str, Any]) -> tuple[Row, ...]:
    """From the contents of a progress file. `resume` marks the open exercise that was last at hand, or the first."""
    saved = state.get("exercises")
    saved = saved if isinstance(saved, Mapping) else {}
    rows = [Row(exercise, Standing.from_json(saved.get(exercise.id))) for exercise in EXERCISES]
    open_rows = [row for row in rows if not row.standing.done]
    if not open_rows:
        return tuple(rows)
    here = max(open_rows, key=lambda row: row.standing.last_at or 0.0)
    return tuple(replace(row, resume=row is here) for row in rows)
