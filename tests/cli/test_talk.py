"""The loop of a conversation in the terminal, with a scripted keyboard and a partner that notes what it is asked."""

import pytest

from lmcourse.cli import talk
from lmcourse.cli.talk import _Timer
from lmcourse.config import Response
from lmcourse.errors import PromptError, ServerBusyError


@pytest.fixture
def asked(monkeypatch):
    """Run the loop with a model that only notes what it is asked: the texts, by session."""
    seen = []

    def answer(session, text, gen):
        if text == "too long":
            raise PromptError("the prompt is too long")
        if text == "too many":
            raise ServerBusyError("the queue is full", retry_after_seconds=2)
        seen.append((session.number, text))

    class Pipe:
        count = 0

        def session(self):
            Pipe.count += 1
            return type("Session", (), {"number": Pipe.count, "history": [1], "close": lambda self: None})()

    monkeypatch.setattr(talk, "_answer", answer)
    return lambda: (talk.converse(Pipe(), None), seen)[1]


def test_an_empty_line_sends_and_words_lead_out(type_in, asked):
    prompts = type_in("", "two", "lines", "", "  spaced  ", "", "end", "", "again", "", "exit", "", "never", "")
    assert asked() == [(1, "two\nlines"), (1, "spaced"), (2, "again")]
    assert prompts == ["double enter to end input >>> "] * 5


def test_the_end_of_the_input_sends_what_is_there(type_in, asked):
    type_in("one", "", "two")
    assert asked() == [(1, "one"), (1, "two")]


def test_ctrl_c_at_the_prompt_drops_the_text_and_twice_leaves(type_in, asked, capsys):
    type_in("half a", KeyboardInterrupt(), "whole", "", KeyboardInterrupt(), KeyboardInterrupt(), "never", "")
    with pytest.raises(KeyboardInterrupt):
        asked()
    assert "dropped" in capsys.readouterr().out
    type_in(KeyboardInterrupt(), "kept", "", KeyboardInterrupt(), "going", "")
    assert [text for _, text in asked()] == ["whole", "kept", "going"]


def test_a_prompt_that_fails_does_not_end_the_conversation(type_in, asked, capsys):
    type_in("too long", "", "short", "")
    assert asked() == [(1, "short")]
    assert "`end` forgets" in capsys.readouterr().err


def test_a_busy_server_does_not_end_the_conversation(type_in, asked, capsys):
    type_in("too many", "", "later", "")
    assert asked() == [(1, "later")]
    assert "ask again in 2 s" in capsys.readouterr().err


def test_answer_longer_than_allowed_says_so():
    timer = _Timer(started=1.0, first=1.25, last=2.25, num_tokens=11)
    response = Response("", 11, 4, 0, finish_reason="length")
    assert timer.report(response).startswith("[11 tokens, the first after 0.25 s, then 10.0 tokens/s, cut at")
    assert _Timer(started=1.0).report(None) == "[no tokens]"
