"""A class over HTTP: it asks what the simulated one asks, and a question that fails ends it."""

from __future__ import annotations

import pytest
from capacity_tables import make_table

from lmcourse.bench.capacity import ClassLoad, run_class
from lmcourse.bench.capacity_machine import VirtualMachine
from lmcourse.bench.capacity_served import run_served_class
from lmcourse.errors import ServerError
from lmcourse.serve.background import serve_in_background

LOAD = ClassLoad(4, think=0.2, prompt=20, answer=8, seconds=1.0, start="spread")


def test_served_class_asks_what_the_simulated_one_asks() -> None:
    with serve_in_background("dummy:tiny", name="a class") as server:
        result = run_served_class(LOAD, server.url)
    simulated = run_class(LOAD, VirtualMachine(make_table()))
    assert {visit.student for visit in result.visits} == set(range(4))
    for student in range(4):
        asked = [[(v.prompt, v.answer) for v in one.visits if v.student == student] for one in (result, simulated)]
        shorter = min(map(len, asked))
        assert asked[0][:shorter] == asked[1][:shorter] != []
    for visit in result.visits:
        assert visit.asked_at < visit.first_at <= visit.ended_at
    assert result.ttft(50) > 0


def test_a_server_that_answers_something_else_is_an_error(stand_in) -> None:
    with pytest.raises(ServerError, match="another length"):
        run_served_class(LOAD, stand_in.url)


def test_a_question_that_fails_ends_the_class(stand_in) -> None:
    stand_in.failure = "busy"
    with pytest.raises(ServerError):
        run_served_class(LOAD, stand_in.url)


def test_no_server_is_an_error() -> None:
    with pytest.raises(ServerError):
        run_served_class(LOAD, "http://127.0.0.1:9")
