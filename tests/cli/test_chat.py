"""`lmcourse chat`, mostly in this process with a scripted keyboard; once as users run it."""

import os
import subprocess
import sys

import pytest

from lmcourse.__main__ import main
from lmcourse.cli import flags


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
