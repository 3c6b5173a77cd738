"""A folder of zips → a Gradebook: every point derived anew from the answers, in processes that cannot reach the grader.

Submissions are judged side by side, a child each. What fails, fails for its own row: a refused zip, a lost child and
even a fault of the grader itself become a note, and the others go on.

Contract: the same folder and seed give the same points. Files of the grader and the zips are hashed before and after.

Lesson: 9 (how grading is made safe)
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import lmcourse
from lmcourse.errors import ConfigError
from lmcourse.homework.exercise import Exercise
from lmcourse.homework.grading.child import Child
from lmcourse.homework.grading.judge import Bounds, Judge, Mark, Paper, Verdict, make_papers
from lmcourse.homework.grading.submission import Submission, SubmissionError, read_submission
from lmcourse.homework.registry import EXERCISES
from lmcourse.homework.sandbox.cells import CodeCell
from lmcourse.homework.tasks import TASKS, count_met

__all__ = ["Entry", "Gradebook", "grade"]

_MOST_NAMED = 3


@dataclass(frozen=True)
class Entry:
    """One zip's row. `codes` has a digest of each right answer's code, by exercise."""

    file: str
    student: str
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    evidence: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # by task: requirements met, of how many
    hints: int = 0
    notes: tuple[str, ...] = ()
    codes: Mapping[str, str] = field(default_factory=dict)
    refused: bool = False

    def points(self, exercises: Sequence[Exercise]) -> float:
        """Sum over the exercises, to a tenth."""
        return round(sum(e.points * self.verdicts[e.id].score for e in exercises if e.id in self.verdicts), 1)


@dataclass(frozen=True)
class Gradebook:
    """All rows, and how they came about."""

    exercises: tuple[Exercise, ...]
    entries: tuple[Entry, ...]
    seed: int
    walls: tuple[str, ...]
    seconds: float
    made_at: str
    changed_files: tuple[str, ...] = ()

    @property
    def most_points(self) -> int:
        return sum(exercise.points for exercise in self.exercises)


def grade(
    folder: Path,
    *,
    seed: int | None = None,
    jobs: int = 2,
    exercises: Sequence[Exercise] = EXERCISES,
    bounds: Bounds | None = None,
) -> Gradebook:
    """Grade every *.zip of a folder. Without a seed one is drawn, so that nobody can have known it."""
    started = time.monotonic()
    paths = _find_zips(folder)
    chosen = secrets.randbits(48) if seed is None else seed
    before = _hash_files(folder)
    with Child(preload=()) as probe:
        walls = probe.walls
    papers = make_papers(exercises, chosen)
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        entries = list(pool.map(partial(_grade_zip, papers=papers, bounds=bounds), paths))
    after = _hash_files(folder)
    return Gradebook(
        exercises=tuple(exercises),
        entries=_with_matches(entries),
        seed=chosen,
        walls=walls,
        seconds=time.monotonic() - started,
        made_at=time.strftime("%Y-%m-%d %H:%M"),
        changed_files=tuple(sorted(name for name in {*before, *after} if before.get(name) != after.get(name))),
    )


def _find_zips(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.glob("*.zip") if path.is_file()) if folder.is_dir() else []
    if paths:
        return paths
    raise ConfigError(
        "there is nothing to grade here",
        expected="a folder with the zips that students made with `lmcourse homework submit`",
        got="no *.zip" if folder.is_dir() else "no such folder",
        where=str(folder),
    )


def _hash_files(folder: Path) -> dict[str, str]:
    """Of the zips and of the package's homework, by name."""
    package = Path(lmcourse.__file__).resolve().parent / "homework"
    paths = [*folder.glob("*.zip"), *package.rglob("*.py")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def _grade_zip(path: Path, papers: Sequence[Paper], bounds: Bounds | None) -> Entry:
    try:
        submission = read_submission(path)
        verdicts = Judge(tuple(submission.notebooks.values()), bounds).verdicts(papers)
        return _entry(path, submission, verdicts)
    except SubmissionError as error:
        said = f"{error.what} (expected {error.expected}, got {error.got})"
        return Entry(path.name, path.stem, notes=(said,), refused=True)
    except Exception as error:  # a fault of the grader must not cost the others their marks
        return Entry(
            path.name, path.stem, notes=(f"the grader failed here: {type(error).__name__}: {error}",), refused=True
        )


def _entry(path: Path, submission: Submission, verdicts: Mapping[str, Verdict]) -> Entry:
    right = [name for name, verdict in verdicts.items() if verdict.mark is Mark.PASSED]
    cells = [cell for cells in submission.notebooks.values() for cell in cells]
    return Entry(
        file=path.name,
        student=submission.student,
        verdicts=dict(verdicts),
        evidence={task.id: count_met(task, submission.evidence.get(task.id)) for task in TASKS},
        hints=_count_hints(submission.progress),
        notes=submission.notes,
        codes={name: _digest(name, cells) for name in right},
    )


def _count_hints(progress: Mapping[str, object]) -> int:
    """As the student's own file says."""
    exercises = progress.get("exercises")
    rows = exercises.values() if isinstance(exercises, dict) else []
    counts = [row.get("hints") for row in rows if isinstance(row, dict)]
    return sum(count for count in counts if type(count) is int and 0 <= count <= 3)


def _digest(exercise_id: str, cells: Sequence[CodeCell]) -> str:
    """Of an answer's code without comments and spacing."""
    text = "\n".join(cell.source for cell in cells if cell.exercise == exercise_id)
    return hashlib.sha256(re.sub(r"#.*|\s+", "", text).encode()).hexdigest()


def _with_matches(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """A note where two students' right answers are the same text, and where a name comes twice."""
    named: dict[str, list[str]] = {}
    owners: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        named.setdefault(entry.student, []).append(entry.file)
        for item in entry.codes.items():
            owners.setdefault(item, []).append(entry.student)
    return tuple(replace(entry, notes=(*entry.notes, *_matches(entry, named, owners))) for entry in entries)


def _matches(entry: Entry, named: Mapping[str, list[str]], owners: Mapping[tuple[str, str], list[str]]) -> list[str]:
    others: dict[str, list[str]] = {}
    for item in entry.codes.items():
        for other in dict.fromkeys(owners[item]):
            if other != entry.student:
                others.setdefault(other, []).append(item[0])
    notes = []
    if others:
        names = sorted(others, key=lambda name: (-len(others[name]), name))
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        shared = ", ".join(f"{name} ({len(others[name])})" for name in names[:_MOST_NAMED])
        notes.append(f"answers of the same text as {shared}{more}")
    if len(named[entry.student]) > 1:
        notes.append(f"{len(named[entry.student])} zips bear this name")
    return notes
