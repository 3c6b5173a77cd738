"""The chat page's answers: from a client of a server that is not ours."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from lmcourse.client import Client
from lmcourse.config import GenerationConfig
from lmcourse.errors import ServerBusyError
from lmcourse.serve.web import Answers, Settings


@pytest.fixture
def answers(stand_in):
    with Client(stand_in.url) as client:
        yield Answers(client)


GREEDY = Settings(temperature=0, top_p=1, max_new_tokens=9)


def test_answer_grows_to_its_end(answers, stand_in) -> None:
    stand_in.seconds_per_word = 0.06
    turns = [{"role": "user", "content": [{"type": "text", "text": "hi"}], "metadata": None}]
    updates = list(answers.answer(turns, GREEDY, "tab"))
    texts = [text for text, _ in updates]
    assert texts[-1] == stand_in.answer_of("hi")
    assert len(texts) > 3
    assert all(later.startswith(sooner) for sooner, later in pairwise(texts))
    assert updates[-1][1].startswith("22 tokens, the first after")
    assert stand_in.bodies[-1]["messages"] == [{"role": "user", "content": "hi"}]


def test_stop_ends_the_request_of_one_session(answers, stand_in) -> None:
    stand_in.seconds_per_word = 0.06
    ended = {}

    def ask(session: str) -> None:
        ended[session] = list(answers.answer([{"role": "user", "content": "hi"}], GREEDY, session))[-1]

    threads = [threading.Thread(target=ask, args=(session,)) for session in ("a", "b")]
    for thread in threads:
        thread.start()
    while stand_in.in_flight < 2:
        time.sleep(0.01)
    answers.stop("a")
    answers.stop("nobody")
    for thread in threads:
        thread.join()
    assert ended["a"][1].endswith("; stopped")
    assert len(ended["a"][0]) < len(ended["b"][0])
    assert ended["b"][0] == stand_in.answer_of("hi")
    while stand_in.in_flight:
        time.sleep(0.01)
    assert stand_in.abandoned == 1


def test_second_answer_of_a_session_stops_the_first(answers, stand_in) -> None:
    stand_in.seconds_per_word = 0.06
    first = answers.answer([{"role": "user", "content": "hi"}], GREEDY, "tab")
    next(first)
    *_, (text, _) = answers.answer([{"role": "user", "content": "ho"}], GREEDY, "tab")
    assert text == stand_in.answer_of("ho")
    assert list(first)[-1][1].endswith("; stopped")


def test_leaving_closes_the_connection(answers, stand_in) -> None:
    stand_in.seconds_per_word = 0.06
    running = answers.answer([{"role": "user", "content": "hi"}], GREEDY, "tab")
    next(running)
    running.close()
    while stand_in.in_flight:
        time.sleep(0.01)
    assert stand_in.abandoned == 1


def test_errors_reach_the_page(answers, stand_in) -> None:
    stand_in.failure = "busy"
    with pytest.raises(ServerBusyError):
        list(answers.answer([{"role": "user", "content": "hi"}], GREEDY, "tab"))


def test_settings_become_a_generation_config() -> None:
    assert GREEDY.generation_config() == GenerationConfig(max_new_tokens=9)
    drawn = Settings(0.7, 0.9, 20).generation_config()
    assert drawn.samples
    assert (drawn.temperature, drawn.top_p, drawn.max_new_tokens) == (0.7, 0.9, 20)
