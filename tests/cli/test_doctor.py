"""`lmcourse doctor` and `lmcourse check_env`: arguments, exit status, JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

import lmcourse.doctor
from lmcourse.bundled import model_path
from lmcourse.cli import doctor
from lmcourse.doctor import Report, Row
from lmcourse.errors import ConfigError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LMCOURSE_MODEL", raising=False)
    parser = argparse.ArgumentParser(prog="lmcourse")
    doctor.add_parser(parser.add_subparsers())

    def run_command(*words: str) -> int:
        args = parser.parse_args(words)
        return args.func(args)

    return run_command


@pytest.mark.parametrize("name", ["doctor", "check_env"])
def test_doctor_without_the_link_exits_1_and_says_the_command(run, capsys, name):
    assert run(name, "--offline") == 1
    assert "→ lmcourse doctor --link-model" in capsys.readouterr().out


def test_doctor_link_model_makes_the_link(run, capsys):
    run("doctor", "--offline", "--link-model")
    assert (Path.home() / "internlm2-chat-1_8b").resolve() == model_path("tiny-chat").resolve()
    assert "linked to the bundled tiny-chat" in capsys.readouterr().out


def test_doctor_json_can_be_read(run, capsys):
    run("doctor", "--offline", "--json")
    report = json.loads(capsys.readouterr().out)
    assert {"healthy", "versions", "rows"} == set(report)
    assert "torch" in report["versions"]


def test_doctor_with_nothing_to_fix_exits_0(run, monkeypatch, capsys):
    healthy = Report((Row("Python", "ok", "3.12"), Row("port", "warn", "in use", "take another")), {})
    monkeypatch.setattr(lmcourse.doctor, "doctor", lambda offline: healthy)
    assert run("doctor") == 0
    assert "ready" in capsys.readouterr().out


def test_doctor_for_a_class_adds_the_checklist(run, monkeypatch, capsys):
    healthy = Report((Row("Python", "ok", "3.12"),), {})
    monkeypatch.setattr(lmcourse.doctor, "doctor", lambda offline: healthy)
    monkeypatch.delenv("LMCOURSE_SERVER", raising=False)
    run("doctor", "--class", "3")
    shown = capsys.readouterr().out
    for name in ("lessons", "solutions", "wheelhouse", "sandbox", "share of 3", "first words"):
        assert f"  {name} " in shown
    with pytest.raises(ConfigError, match="a class has students"):
        run("doctor", "--class", "0")
