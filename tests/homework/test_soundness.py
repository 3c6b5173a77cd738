"""Every exercise that a lesson holds: its solution passes, its stub and a crowd of wrong answers do not.

Mutants that survive are either the same answer in other words, and stand with the reason in survivors.json, or show a
case that is missing. An exercise that is new needs twelve wrong answers that fail and may have a few unlisted
survivors; `pytest -s` prints them.
"""

from __future__ import annotations

import inspect
import json
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lesson_answers import Written, written_answers
from mutants import Mutant, NoSuchChangeError, result_mutants, tree_mutants

from lmcourse.homework import EXERCISES, Case, Exercise, check
from lmcourse.homework.compare import difference
from lmcourse.homework.grading.judge import fresh_cases
from lmcourse.homework.sandbox.plain import decode, encode
from lmcourse.homework.score import Outcome

SURVIVORS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("survivors.json").read_text("utf-8"))
WRONG_ANSWERS = 12
CASE_SECONDS = 0.7
WRITTEN = pytest.mark.parametrize("written", written_answers().values(), ids=list(written_answers()))
ALL = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)


class TooSlowError(BaseException):
    """An answer that does not end."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def cases_of(exercise: Exercise, seed: int) -> list[Case]:
    return [*exercise.make_cases(random.Random(seed)), *exercise.make_cases(random.Random(seed + 1))]


def passes(cases: list[Case], answer: Callable[..., Any]) -> bool:
    for case in cases:
        try:
            with limited(CASE_SECONDS):
                returned = answer(*case.make_arguments())
            if difference(case.expected, returned) is not None:
                return False
        except NoSuchChangeError:
            raise
        except (Exception, TooSlowError):
            return False
    return True


def wrong_answers(written: Written, cases: list[Case]) -> Iterator[Mutant]:
    right = written.compile(written.solution)
    for n, mistake in enumerate(written.exercise.mistakes):
        yield Mutant(f"known mistake {n}: {mistake.advice}", mistake.answer)
    visible = cases[0].expected
    yield from result_mutants(right, getattr(visible, "value", visible))
    yield from tree_mutants(written)


def test_every_exercise_of_a_written_lesson_has_its_cell() -> None:
    lessons = {written.exercise.lesson for written in written_answers().values()}
    missing = [e.id for e in EXERCISES if e.lesson in lessons and e.id not in written_answers()]
    assert not missing


@WRITTEN
def test_solution_passes(written: Written) -> None:
    for _ in range(3):
        seed = random.SystemRandom().randrange(10**6)
        score = check(written.exercise.id, written.compile(written.solution), seed=seed)
        assert score == 1.0, (seed, repr(score))


@WRITTEN
def test_stub_fails_with_a_message_that_helps(written: Written) -> None:
    score = check(written.exercise.id, written.compile(written.stub))
    assert score == 0.0
    assert score.outcome is Outcome.UNTRIED
    said = repr(score)
    assert written.exercise.signature in said
    assert f'homework.hint("{written.exercise.id}")' in said


@WRITTEN
def test_wrong_answers_fail_and_survivors_are_known(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    exercise = written.exercise
    seed = random.SystemRandom().randrange(10**6)
    cases = cases_of(exercise, seed)
    assert passes(cases, written.compile(written.solution)), seed
    failed, survived = [], set()
    for mutant in wrong_answers(written, cases):
        try:
            survives = passes(cases, mutant.answer)
        except NoSuchChangeError:
            continue
        if survives:
            survived.add(mutant.what)
        else:
            failed.append(mutant.what)
    capsys.readouterr()
    print(f"{exercise.id}: {len(failed)} wrong answers fail; seed {seed}; survivors:", *sorted(survived), sep="\n  ")
    assert len(failed) >= WRONG_ANSWERS
    assert not [what for what in survived if not what.startswith("line ")]
    if exercise.id in SURVIVORS:
        assert survived <= set(SURVIVORS[exercise.id]), survived - set(SURVIVORS[exercise.id])
    else:
        assert len(survived) <= len(failed) / 4, survived


@WRITTEN
def test_cell_defines_the_function_that_the_signature_names(written: Written) -> None:
    answer = written.compile(written.solution)
    asked = re.match(r"\w+\((.*?)\)", written.exercise.signature)
    assert asked is not None
    names = [name.strip() for name in asked[1].split(",")]
    assert list(inspect.signature(answer).parameters) == names


@ALL
def test_arguments_and_answers_can_be_handed_over(exercise: Exercise) -> None:
    """What the grader does with them; see lmcourse/homework/sandbox/plain.py for what it knows."""
    for case in exercise.make_cases(random.Random(5)):
        encode(tuple(case.make_arguments()), lambda value: 0)


@ALL
def test_most_cases_are_unknown_beforehand(exercise: Exercise) -> None:
    seed = random.SystemRandom().randrange(10**6)
    total = len(list(exercise.make_cases(random.Random(seed))))
    assert len(fresh_cases(exercise, seed, rounds=1)) >= total / 2


@WRITTEN
def test_solution_survives_the_way_to_the_grader(written: Written) -> None:
    answer = written.compile(written.solution)
    for case in written.exercise.make_cases(random.Random(6)):
        returned = decode(json.loads(json.dumps(encode(answer(*case.make_arguments())))))
        assert difference(case.expected, returned) is None


CODE = re.compile(r"[\w.\])]+\s*(?:\*\*|//|<<|>>|[-+*/%@=<>]=?)\s*[\w(\[]+|\w+\([^)]*\)")


@ALL
def test_first_hint_gives_away_nothing_of_the_last(exercise: Exercise) -> None:
    """What the third hint says in code, the first does not say at all."""
    first, _, last = exercise.hints
    shared = {_plain(code) for code in CODE.findall(last)} & {_plain(code) for code in CODE.findall(first)}
    asked = _plain(exercise.signature)
    assert not {code for code in shared if code not in asked}
    assert not [run for run in _runs(last, 6) if run in " ".join(_words(first))]


@ALL
def test_hints_lead_on(exercise: Exercise) -> None:
    """Each level says something that the one before does not, and only the last is nearly the code."""
    counts = [len(CODE.findall(hint)) for hint in exercise.hints]
    assert counts[0] <= counts[2]
    for level in (0, 1):
        here, there = set(_words(exercise.hints[level])), set(_words(exercise.hints[level + 1]))
        assert len(there - here) >= 3


def _plain(code: str) -> str:
    return re.sub(r"\s+", "", code)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def _runs(text: str, length: int) -> Iterator[str]:
    words = _words(text)
    for n in range(len(words) - length + 1):
        yield " ".join(words[n : n + length])
