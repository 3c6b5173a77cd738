"""The arithmetic against hand-computed classes and against the simulation."""

from __future__ import annotations

import pytest
from capacity_tables import make_table

from lmcourse.bench.capacity import ClassLoad, Goal, run_class
from lmcourse.bench.capacity_machine import VirtualMachine
from lmcourse.bench.capacity_paper import count_places, estimate, estimate_most_students, explain, explain_full


def test_estimate_of_one_student_is_prompt_and_steps():
    found = estimate(make_table(), ClassLoad(1, think=8.0, prompt=100, answer=100))
    # p 1 s, s 10 ms: a step with 1 answered carries 1/100 of a prompt, 10 ms more
    assert found.step == pytest.approx(0.02)
    assert found.response == pytest.approx(1 + 100 * 0.02)
    assert found.answering == pytest.approx(3 / (8 + 3))
    assert found.together == pytest.approx(1.0)
    assert found.tokens_per_second == pytest.approx(100 / 11)


def test_estimate_keeps_littles_law():
    load = ClassLoad(40, think=20.0, prompt=10, answer=50)
    found = estimate(make_table(), load)
    assert found.answering == pytest.approx(40 * found.response / (20 + found.response))


@pytest.mark.parametrize("students", [1, 5, 20, 60, 200])
def test_estimate_is_near_the_simulation(students):
    load = ClassLoad(students, think=20.0, prompt=10, answer=100, seconds=400 + 8000 / students, start="spread")
    found, simulated = estimate(make_table(), load), run_class(load, VirtualMachine(make_table()))
    assert found.answering == pytest.approx(simulated.mean_waiting, rel=0.15)
    assert found.tokens_per_second == pytest.approx(simulated.tokens_per_second, rel=0.15)


@pytest.mark.parametrize("students", [8, 24, 48])
def test_estimate_of_everybody_at_once_is_near_the_simulation(students):
    load = ClassLoad(students, think=9.0, prompt=10, answer=100, seconds=1e-6)
    machine = VirtualMachine(make_table(max_running=8))
    last = run_class(load, machine).ttft(100)
    assert estimate(make_table(max_running=8), load).together == pytest.approx(last, rel=0.35)


def test_count_places_is_bounded_by_requests_and_by_the_pool():
    load = ClassLoad(1, prompt=300, answer=200)
    assert count_places(make_table(), load) == 1000 * 16 // 500
    assert count_places(make_table(max_running=7), load) == 7
    assert count_places(make_table(num_blocks=1), load) == 1


def test_estimate_most_students_is_places_times_the_cycle():
    table = make_table(max_running=5)
    load = ClassLoad(1, think=30.0, prompt=10, answer=100)
    response = 0.1 + 100 * (0.01 + 0.1 * 5 / 100)
    assert estimate_most_students(table, load, Goal()) == int(5 * (30 + response) / response)
    # a goal that a full machine misses: 1 / (0.01 + 0.001 B) >= 80 for B <= 2
    slower = 0.1 + 100 * (0.01 + 0.1 * 2 / 100)
    assert estimate_most_students(table, load, Goal(rate=80.0)) == int(2 * (30 + slower) / slower)


def test_explain_states_numbers_that_can_be_done_again():
    table, load = make_table(max_running=5), ClassLoad(1, think=8.0, prompt=100, answer=100)
    told = explain(table, load)
    assert "p = 1000.00 ms; a step of 1.0 answers s = 10.00 ms" in told
    assert "e = s + 1000.00 · 1.0 / 100 = 20.00 ms" in told
    assert "R = p + 100 e = 3.00 s" in told
    full = explain_full(table, load)
    assert "16,000 / 200 = 80 questions with their answers; 5 run" in full
    assert "e(5) = 60.00 ms, so a question costs 100 e / 5 = 1200.00 ms: 1 a second" in full
