from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from lmcourse.cli import homework
from lmcourse.homework import EXERCISES


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    homework.add_parser(parser.add_subparsers())
    return parser.parse_args(["homework", *words])


def test_list_shows_every_exercise(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCOURSE_HOMEWORK", str(tmp_path))
    assert homework.run(parse("list")) == 0
    table, _, standing = capsys.readouterr().out.partition("\n\n")
    assert "resume here" in standing
    header, *rows = table.splitlines()
    assert header.split() == ["exercise", "lesson", "difficulty", "minutes", "points", "title"]
    assert [row.split()[0] for row in rows] == [exercise.id for exercise in EXERCISES]
    assert all(row.endswith(exercise.title) for row, exercise in zip(rows, EXERCISES, strict=True))


def test_without_an_action_the_choices_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse()
    assert "list | check | submit | grade" in capsys.readouterr().err
