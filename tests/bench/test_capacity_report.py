"""Rows and fleets: what they print is what they hold."""

from __future__ import annotations

import pytest
from capacity_tables import make_table

from lmcourse.bench.capacity import ClassLoad, Goal, run_class
from lmcourse.bench.capacity_machine import VirtualMachine
from lmcourse.bench.capacity_report import HEADER, Fleet, simulate_row, size_fleet

LOAD = ClassLoad(6, think=5.0, prompt=10, answer=20, seconds=40.0, start="spread")


def test_row_tells_all_three_and_stays_within_the_header():
    row = simulate_row(make_table(), LOAD, Goal(), lambda load: run_class(load, VirtualMachine(make_table())))
    lines = str(row).splitlines()
    assert [name in line for name, line in zip(("simulated", "measured", "on paper"), lines, strict=True)] == [True] * 3
    assert "goal kept" in lines[0]
    assert max(map(len, HEADER.splitlines())) <= len(lines[0].partition("  goal")[0])
    told = row.to_json()
    assert told["measured"] == told["simulated"]
    assert told["at_once"]["questions"] == 6
    num_tokens = sum(visit.prompt for visit in row.at_once.visits)
    assert told["at_once"]["ttft_seconds"]["p99"] == pytest.approx(0.01 * num_tokens)  # all in one step


def test_row_says_where_steps_were_not_measured_or_requests_gave_way():
    row = simulate_row(make_table(), ClassLoad(80, think=0.1, prompt=10, answer=20, seconds=2.0), Goal())
    assert "goal missed" in str(row)
    small = make_table(num_blocks=8, decode=make_table().decode[:1] + make_table().decode[1:])
    crowded = simulate_row(small, ClassLoad(9, think=0.0, prompt=30, answer=50, seconds=2.0), Goal())
    assert "preempted" in str(crowded)
    long = simulate_row(make_table(), ClassLoad(1, think=1.0, prompt=400, answer=400, seconds=2.0), Goal())
    assert " *" in str(long)


def test_row_beside_a_flood_is_better_with_the_queue_of_a_class():
    load = ClassLoad(6, think=5.0, prompt=10, answer=20, seconds=60.0, start="spread", flood=60)
    slow = tuple(point._replace(ms=10.0 + point.batch) for point in make_table().decode)
    rows = [simulate_row(make_table(decode=slow), load, Goal(), queue=queue) for queue in ("first", "fair")]
    first, fair = (row.simulated for row in rows)
    assert fair.rate(50) > first.rate(50)
    assert {visit.student for visit in fair.visits} == set(range(6))
    assert {visit.student for visit in fair.flooded} <= set(range(6, 66))
    assert "60 questions that one more keeps open" in str(rows[0])


def test_fleet_is_the_largest_class_and_the_rest_divided_by_it():
    fleet = size_fleet(make_table(), LOAD, Goal(ttft=0.5), [30, 30_000])
    assert fleet.most > 6
    assert Goal(ttft=0.5).kept_by(run_class(ClassLoad(fleet.most, **_rest()), VirtualMachine(make_table())))
    assert fleet.engines(30_000) == -(-30_000 // fleet.most)
    assert "30,000 students" in str(fleet)
    assert fleet.to_json()["engines"]["30"] == fleet.engines(30)


def test_fleet_of_engines_that_serve_nobody_well():
    none = Fleet(0, 0, (30,))
    assert none.engines(30) is None
    assert "does not keep" in str(none)


def _rest():
    return {name: value for name, value in vars(LOAD).items() if name != "students"}
