"""`lmcourse chat`, mostly in this process with a scripted keyboard; once as users run it."""

import os
import subprocess
import sys

import pytest

from lmcourse.__main__ import main
from lmcourse.cli import chat, flags


@pytest.fixture
def type_in(monkeypatch):
    """Have input() give these lines; an exception in place of a line is raised; then the input ends."""

    def install(*lines):
        waiting = iter(lines)
        prompts = []

        def fake_input(prompt=""):
            if prompt:
                prompts.append(prompt)
            line = next(waiting, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", fake_input)
        return prompts

    return install


@pytest.fixture
def asked(monkeypatch):
    """Run the loop with a model that only notes what it is asked: the texts, by session."""
    seen = []

    def answer(session, text, gen):
        if text == "too long":
            from lmcourse.errors import PromptError

            raise PromptError("the prompt is too long")
        seen.append((session.number, text))

    class Pipe:
        count = 0

        def session(self):
            Pipe.count += 1
            return type("Session", (), {"number": Pipe.count, "history": [1], "close": lambda self: None})()

    monkeypatch.setattr(chat, "_answer", answer)
    return lambda: (chat._converse(Pipe(), None), seen)[1]


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


def test_answers_stream_and_end_with_their_times(type_in, capsys):
    type_in("hello", "", "and again", "")
    assert main(["chat", "tiny-chat", "--max-new-tokens", "5", "--temperature", "0.9", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "sampled answers" in shown
    reports = [line for line in shown.splitlines() if line.startswith("[")]
    assert len(reports) == 2
    for report in reports:
        assert "token" in report
        assert "the first after 0." in report or "the first after" in report


def test_answer_longer_than_allowed_says_so(type_in, capsys):
    from lmcourse.cli.chat import _Timer
    from lmcourse.config import Response

    timer = _Timer(started=1.0, first=1.25, last=2.25, num_tokens=11)
    response = Response("", 11, 4, 0, finish_reason="length")
    assert timer.report(response).startswith("[11 tokens, the first after 0.25 s, then 10.0 tokens/s, cut at")
    assert _Timer(started=1.0).report(None) == "[no tokens]"


def test_ctrl_c_stops_the_answer_only(type_in, capsys, monkeypatch):
    from lmcourse.pipeline import AnswerStream

    receive, pieces = AnswerStream.__next__, []

    def interrupted(stream):
        pieces.append(1)
        if len(pieces) == 3:
            raise KeyboardInterrupt
        return receive(stream)

    monkeypatch.setattr(AnswerStream, "__next__", interrupted)
    type_in("hello", "", "still there", "")
    assert main(["chat", "tiny-chat", "--max-new-tokens", "6"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("[stopped]") == 1
    assert shown.count("the first after") == 2


def test_piped_input_as_users_run_it():
    flags = ["--max-new-tokens", "4", "--backend", "pytorch", "--trust-remote-code"]
    result = subprocess.run(
        [sys.executable, "-m", "lmcourse", "chat", *flags], input="给我讲个笑话\n\nexit\n\n",
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=False,
        env={**os.environ, "LMCOURSE_MODEL": "tiny-chat"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("double enter to end input >>> ") == 2
    assert "greedy answers" in result.stdout
    assert "there is one engine" in result.stderr
    assert "nothing remote runs" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "nan"], "GenerationConfig.temperature"),
        (["--top-p", "1.5"], "GenerationConfig.top_p"),
        (["--max-new-tokens", "0"], "GenerationConfig.max_new_tokens"),
        (["--session-len", "1"], "TurbomindEngineConfig.session_len"),
        (["--cache-max-entry-count", "-1"], "cache_max_entry_count"),
        (["--quant-policy", "5"], "quant_policy"),
        (["--model-name", "internlm9"], "no chat template"),
        (["--cap", "infilling"], "cannot fill gaps"),
    ],
)
def test_bad_values_are_errors_before_anything_is_loaded(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("lmcourse.engine.Engine.from_folder", lambda *a, **k: pytest.fail("loaded"))
    assert main(["chat", "tiny-chat", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_defaults_of_flags_are_those_of_the_configs():
    import argparse

    from lmcourse.config import ChatTemplateConfig, GenerationConfig, TurbomindEngineConfig

    parser = argparse.ArgumentParser()
    for rows in (flags.ENGINE_FLAGS, flags.TEMPLATE_FLAGS, flags.SAMPLING_FLAGS):
        flags.add_flags(parser, rows)
    args = parser.parse_args([])
    assert flags.engine_config(args) == TurbomindEngineConfig()
    assert flags.template_config(args) == ChatTemplateConfig()
    assert flags.generation_config(args) == GenerationConfig(max_new_tokens=1024)
