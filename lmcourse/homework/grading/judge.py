"""An answer's verdict, made in the grader from plain data: what came back, against what the seed's cases expect.

    cases      three rounds of the exercise's cases from the instructor's seed, less those that are the same for every
               seed: what is known beforehand earns nothing
    points     share of the cases that pass, times the exercise's points

Contract: `judge` never raises for anything that an answer does; a child that is lost costs the exercise at hand only.

Lesson: 9 (how grading is made safe)
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from lmcourse.homework.compare import describe, difference
from lmcourse.homework.exercise import Case, Exercise
from lmcourse.homework.grading.child import PRELOAD, Child, ChildLostError
from lmcourse.homework.sandbox.cells import CodeCell
from lmcourse.homework.sandbox.confine import Limits
from lmcourse.homework.sandbox.plain import decode, encode

__all__ = ["Bounds", "Judge", "Mark", "Paper", "Verdict", "fresh_cases", "make_papers"]

_ROUNDS = 3
_MOST_CANDIDATES = 3
_NOTE_CHARACTERS = 600
Notebook = tuple[CodeCell, ...]


class Mark(Enum):
    """How an exercise went, with a sign that reads without colour."""

    PASSED = "✓"
    PARTIAL = "◐"
    FAILED = "✗"
    STOPPED = "!"
    UNTRIED = "○"
    MISSING = "–"


@dataclass(frozen=True)
class Verdict:
    """`score` is the share of cases passed; `note` says why it is not 1."""

    exercise_id: str
    mark: Mark
    score: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Paper:
    """An exercise with the cases of this grading."""

    exercise: Exercise
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Bounds:
    """Times that one submission may take, and what its process may use."""

    exercise_seconds: float = 10.0
    submission_seconds: float = 90.0
    limits: Limits = field(default_factory=Limits)
    preload: tuple[str, ...] = PRELOAD  # imported before memory is limited, since importing takes much of it


def make_papers(exercises: Sequence[Exercise], seed: int) -> tuple[Paper, ...]:
    """The same seed makes the same papers, whoever is graded."""
    return tuple(Paper(exercise, fresh_cases(exercise, seed)) for exercise in exercises)


def fresh_cases(exercise: Exercise, seed: int, rounds: int = _ROUNDS) -> tuple[Case, ...]:
    """Cases of several rounds without those that another seed gives, too; all of them if it gives all."""
    made = [_round(exercise, seed, number) for number in range(rounds)]
    known = {_fingerprint(case) for case in _round(exercise, seed, rounds)}
    fresh = tuple(case for cases in made for case in cases if _fingerprint(case) not in known)
    return fresh or tuple(made[0])


def _round(exercise: Exercise, seed: int, number: int) -> list[Case]:
    return list(exercise.make_cases(random.Random(f"{exercise.id}:{seed}:{number}")))


def _fingerprint(case: Case) -> str:
    return json.dumps([case.shown, describe(case.expected), encode(tuple(case.make_arguments()), lambda _: 0)])


class Judge:
    """Judges one submission, in a child that is started anew whenever an answer has brought it down."""

    def __init__(self, notebooks: Sequence[Notebook], bounds: Bounds | None = None) -> None:
        self._notebooks, self._bounds = notebooks, bounds or Bounds()
        self._child: Child | None = None
        self._ends_at = time.monotonic() + self._bounds.submission_seconds

    def verdicts(self, papers: Sequence[Paper]) -> dict[str, Verdict]:
        """One for each paper; the best, where several notebooks hold an answer."""
        try:
            return {paper.exercise.id: self._judge(paper) for paper in papers}
        finally:
            self._end_child()

    def _judge(self, paper: Paper) -> Verdict:
        exercise = paper.exercise
        candidates = [cells for cells in self._notebooks if any(cell.exercise == exercise.id for cell in cells)]
        if not candidates:
            made = f"def {exercise.function}("
            candidates = [cells for cells in self._notebooks if any(made in cell.source for cell in cells)]
        if not candidates:
            return Verdict(exercise.id, Mark.MISSING, note="no cell of this exercise was handed in")
        found = [self._judge_notebook(paper, cells) for cells in candidates[:_MOST_CANDIDATES]]
        return max(found, key=lambda verdict: verdict.score)

    def _judge_notebook(self, paper: Paper, cells: Notebook) -> Verdict:
        exercise = paper.exercise
        left = self._ends_at - time.monotonic()
        if left <= 0:
            return Verdict(exercise.id, Mark.STOPPED, note="the time for the whole submission was over before")
        try:
            child = self._open_child()
            started = time.monotonic()
            seconds = min(self._bounds.exercise_seconds, left)
            wanted = {"exercise": exercise.id, "name": exercise.function, "cells": [vars(cell) for cell in cells]}
            loaded = child.ask({"load": wanted}, seconds=seconds)
            if verdict := _unusable(exercise.id, loaded):
                return verdict
            failures = []
            for case in paper.cases:
                reply = child.call(case.make_arguments(), seconds=seconds - (time.monotonic() - started))
                if why := _failure(case, reply):
                    failures.append(why)
                if reply.get("memory"):
                    self._end_child()
                    break
            return _sum_up(paper, failures, stopped=bool(failures and self._child is None))
        except ChildLostError as error:
            self._end_child()
            return Verdict(exercise.id, Mark.STOPPED, note=str(error))

    def _open_child(self) -> Child:
        if self._child is None:
            self._child = Child(self._bounds.limits, preload=self._bounds.preload)
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None


def _unusable(exercise_id: str, loaded: dict[str, Any]) -> Verdict | None:
    if loaded.get("loaded") is True:
        return None
    if "untried" in loaded:
        return Verdict(exercise_id, Mark.UNTRIED, note="not tried: the cell still holds the stub")
    if "missing" in loaded:
        return Verdict(exercise_id, Mark.MISSING, note="no cell of this exercise was handed in")
    return Verdict(exercise_id, Mark.FAILED, note=f"the cell could not be run: {_shown(loaded.get('raised'))}")


def _failure(case: Case, reply: dict[str, Any]) -> str | None:
    """Why a case does not pass. The reply is whatever the child chose to send."""
    if "returned" not in reply:
        return f"{case.shown}: raised {_shown(reply.get('raised'))}"
    try:
        why = difference(case.expected, decode(reply["returned"]))
    except Exception as error:  # a value made to break the comparison is a wrong value
        why = f"the answer cannot be compared ({type(error).__name__})"
    return None if why is None else f"{case.shown}: {why}"


def _shown(text: object) -> str:
    return str(text)[:_NOTE_CHARACTERS]


def _sum_up(paper: Paper, failures: list[str], *, stopped: bool) -> Verdict:
    exercise_id, total = paper.exercise.id, len(paper.cases)
    if stopped:
        return Verdict(exercise_id, Mark.STOPPED, note=f"out of memory: {failures[-1]}"[:_NOTE_CHARACTERS])
    if not failures:
        return Verdict(exercise_id, Mark.PASSED, 1.0)
    passed = total - len(failures)
    note = f"{passed} of {total} cases pass; first that does not: {failures[0]}"[:_NOTE_CHARACTERS]
    return Verdict(exercise_id, Mark.PARTIAL if passed else Mark.FAILED, passed / total, note)
