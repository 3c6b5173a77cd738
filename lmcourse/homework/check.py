"""check(id, answer) → Score: run a student's function on fresh cases and explain the first that fails.

Whatever the answer does stays inside: exceptions are explained, what it prints is shown with the explanation, its
stderr is dropped (graders count any stderr as a failure). The solution is never shown; a failing case shows its own
expected value.

Contract: raises ConfigError for an unknown exercise only; the same seed repeats the same cases.

Lesson: 9 (homework)
"""

from __future__ import annotations

import contextlib
import io
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmcourse.homework.compare import describe, difference
from lmcourse.homework.exercise import Case, Exercise
from lmcourse.homework.progress_file import note_check
from lmcourse.homework.registry import find_exercise
from lmcourse.homework.sandbox.untried import is_untried
from lmcourse.homework.score import Outcome, Score

__all__ = ["check"]

_SEEDS = 1_000_000


def check(exercise_id: str, answer: Any, *, seed: int | None = None) -> Score:
    """Judge an answer. Without a seed the cases are new each time; a failure names the seed that repeats them.

    The try is noted in the student's progress.
    """
    score = _judge(find_exercise(exercise_id), answer, seed)
    if score.outcome is Outcome.UNTRIED or (trouble := note_check(exercise_id, score)) is None:
        return score
    return Score(score, score.outcome, score.headline, (*score.details, ("progress", trouble)))


def _judge(exercise: Exercise, answer: Any, seed: int | None) -> Score:
    title = f"Exercise {exercise.id} · {exercise.title}"
    if is_untried(answer):
        how = f'write {exercise.signature}; homework.hint("{exercise.id}") opens the first hint'
        return Score(0.0, Outcome.UNTRIED, f"{title}: not tried yet", (("next step", how),))
    if not callable(answer):
        rows = (("expected", f"a function {exercise.signature}"), ("got", describe(answer)))
        step = ("next step", f'pass the function itself: homework.check("{exercise.id}", your_function)')
        return Score(0.0, Outcome.FAILED, f"{title}: the answer is not a function", (*rows, step))
    chosen = random.SystemRandom().randrange(_SEEDS) if seed is None else seed
    cases = list(exercise.make_cases(random.Random(chosen)))
    failures = [failure for case in cases if (failure := _run(case, answer)) is not None]
    passed = len(cases) - len(failures)
    headline = f"{title}: {passed} of {len(cases)} cases pass"
    if not failures:
        return Score(1.0, Outcome.PASSED, headline)
    return Score(passed / len(cases), Outcome.FAILED, headline, _explain(exercise, failures[0], chosen))


@dataclass(frozen=True)
class _Failure:
    case: Case
    got: str
    why: str
    returned: Any
    printed: str
    raised: bool


def _run(case: Case, answer: Callable[..., Any]) -> _Failure | None:
    printed = io.StringIO()
    returned, raised = None, False
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            returned = answer(*case.make_arguments())
            why = difference(case.expected, returned)
        got = "None: is a `return` missing?" if returned is None else describe(returned)
    except (Exception, SystemExit) as error:
        got, why, raised = _where_raised(error), f"the function raised {type(error).__name__}", True
    return None if why is None else _Failure(case, got, why, returned, printed.getvalue(), raised)


def _where_raised(error: BaseException) -> str:
    """The exception and the line of the student's own code that led to it."""
    said = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and frame.line]
    return f"{said}\nat line {own[0].lineno}: {own[0].line}" if own else said


def _explain(exercise: Exercise, failure: _Failure, seed: int) -> tuple[tuple[str, str], ...]:
    rows = [
        ("input", failure.case.shown),
        ("expected", describe(failure.case.expected)),
        ("got", failure.got),
        ("so", failure.why),
    ]
    if failure.printed.strip():
        rows.append(("printed", failure.printed.strip()[-500:]))
    rows.append(("next step", _next_step(exercise, failure)))
    rows.append(("repeat", f'homework.check("{exercise.id}", your_function, seed={seed})'))
    return tuple(rows)


def _next_step(exercise: Exercise, failure: _Failure) -> str:
    hint = f'homework.hint("{exercise.id}") opens the next hint'
    if failure.raised:
        return f"call your function on this input in a cell of its own and look at the values before that line; {hint}"
    return _advise(exercise, failure) or f"compare the two by hand; {hint}"


def _advise(exercise: Exercise, failure: _Failure) -> str | None:
    for mistake in exercise.mistakes:
        # A mistake may be impossible on some cases (it may even raise there); then it is not the one.
        with contextlib.suppress(Exception):
            if difference(mistake.answer(*failure.case.make_arguments()), failure.returned) is None:
                return mistake.advice
    return None
