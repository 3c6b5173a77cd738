"""A class: Little's law, nothing lost, more students get no more each, and the largest class by search."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from capacity_tables import make_table

from lmcourse.bench.capacity import ClassLoad, ClassResult, Goal, Visit, find_most_students, run_class
from lmcourse.bench.capacity_machine import MachineUse, VirtualMachine
from lmcourse.errors import ConfigError


def run_toy(students: int, **changed: object) -> ClassResult:
    load = ClassLoad(students, **{"think": 5.0, "prompt": 20, "answer": 20, "seconds": 60.0, **changed})
    return run_class(load, VirtualMachine(make_table()))


def test_mean_waiting_is_littles_law_and_what_a_clock_counts():
    result = run_toy(12)
    assert result.mean_waiting == pytest.approx(result.questions_per_second * result.mean_response)
    moments = sorted(
        [(visit.asked_at, 1) for visit in result.visits] + [(visit.ended_at, -1) for visit in result.visits]
    )
    area, inside, before = 0.0, 0, 0.0
    for moment, change in moments:
        area, inside, before = area + inside * (moment - before), inside + change, moment
    assert inside == 0
    assert result.mean_waiting == pytest.approx(area / result.span)


def test_each_student_has_one_open_question_and_all_are_answered():
    result = run_toy(9, start="spread")
    by_student = {student: [v for v in result.visits if v.student == student] for student in range(9)}
    for visits in by_student.values():
        for earlier, later in itertools.pairwise(visits):
            assert earlier.ended_at <= later.asked_at
    assert all(v.asked_at < v.first_at <= v.ended_at and v.asked_at < 60 for v in result.visits)
    assert all(10 <= v.prompt <= 30 and 10 <= v.answer <= 30 for v in result.visits)
    assert result.busy <= 1


def test_a_class_is_the_same_for_the_same_seed_only():
    assert run_toy(5).visits == run_toy(5).visits
    assert run_toy(5).visits != run_toy(5, seed=1).visits


def test_more_students_are_answered_together_and_less_each():
    results = [run_toy(students) for students in (1, 4, 16, 64)]
    for fewer, more in itertools.pairwise(results):
        assert more.tokens_per_second > fewer.tokens_per_second
        assert more.busy > fewer.busy
        assert more.rate(5) <= fewer.rate(5)
        assert more.ttft(95) > fewer.ttft(95)


def test_a_class_that_starts_together_waits_for_all_prompts_first():
    together, spread = run_toy(20), run_toy(20, start="spread")
    assert {visit.asked_at for visit in together.first_questions()} == {0.0}
    # the toy computes a prompt's token in 10 ms and 512 tokens a step
    assert max(visit.ttft for visit in together.first_questions()) >= 0.01 * 20 * 10
    assert spread.ttft(95) < together.ttft(95)
    assert together.to_json()["ttft_of_first_questions"]["p100"] >= spread.to_json()["ttft_of_first_questions"]["p100"]


def test_who_floods_is_counted_apart():
    alone, beside = run_toy(4), run_toy(4, flood=30)
    assert {visit.student for visit in beside.visits} == set(range(4))
    assert {visit.student for visit in beside.flooded} == set(range(4, 34))
    assert beside.mean_response > alone.mean_response
    assert alone.flooded == ()
    assert beside.to_json()["flooded_tokens_per_second"] > 0


def test_thinking_not_at_all_keeps_the_machine_busy():
    assert run_toy(3, think=0.0).busy == pytest.approx(1)


def test_visit_measures_from_first_to_last_token():
    visit = Visit(0, asked_at=1.0, first_at=1.5, ended_at=3.5, prompt=9, answer=21)
    assert (visit.ttft, visit.rate) == (0.5, 10.0)
    assert dataclasses.replace(visit, ended_at=1.5, answer=1).rate is None


@pytest.mark.parametrize("guess", [1, 6, 300, 2000])
@pytest.mark.parametrize("most_that_fits", [0, 1, 2, 7, 40, 500, 1000, 5000])
def test_find_most_students_finds_the_edge(most_that_fits, guess):
    asked = []

    def run(students: int) -> ClassResult:
        asked.append(students)
        seconds = 0.5 if students <= most_that_fits else 2.0
        visit = Visit(0, 0.0, seconds, seconds + 1, 9, 101)
        return ClassResult(ClassLoad(students), (visit,), MachineUse(1.0, 1, 0, 0, 0, 1))

    found = find_most_students(run, Goal(), guess=guess, most=1000)
    assert found <= min(most_that_fits, 1000)
    assert found >= min(most_that_fits, 1000) * 0.96
    assert max(asked) <= 1000


@pytest.mark.parametrize(
    "changed",
    [{"students": 0}, {"think": -1.0}, {"think": float("nan")}, {"prompt": 0}, {"answer": 0}, {"flood": -1},
     {"seconds": 0.0}, {"start": "late"}],
)  # fmt: skip
def test_load_that_is_none_is_refused(changed):
    with pytest.raises(ConfigError):
        ClassLoad(**{"students": 3, **changed})


@pytest.mark.parametrize("changed", [{"ttft": 0.0}, {"rate": -1.0}, {"rate": float("inf")}])
def test_goal_that_is_none_is_refused(changed):
    with pytest.raises(ConfigError):
        Goal(**changed)
