from __future__ import annotations

import argparse

import pytest

from lmcourse.cli import homework
from lmcourse.errors import MachineError
from lmcourse.homework import EXERCISES


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    homework.add_parser(parser.add_subparsers())
    return parser.parse_args(["homework", *words])


def test_list_shows_every_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    assert homework.run(parse("list")) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["exercise", "lesson", "difficulty", "minutes", "title"]
    assert [row.split()[0] for row in rows] == [exercise.id for exercise in EXERCISES]
    assert all(row.endswith(exercise.title) for row, exercise in zip(rows, EXERCISES, strict=True))


@pytest.mark.parametrize("action", ["check", "submit", "grade"])
def test_what_arrives_later_says_so(action: str) -> None:
    arguments = parse(action, "folder", "--seed", "3")
    with pytest.raises(MachineError, match="Part 8"):
        arguments.func(arguments)


def test_without_an_action_the_choices_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse()
    assert "list | check | submit | grade" in capsys.readouterr().err
