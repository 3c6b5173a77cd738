"""`lmcourse bench steps` and `capacity`: tables, files, and what does not go together."""

from __future__ import annotations

import argparse
import json

import pytest

from lmcourse.cli import bench
from lmcourse.errors import CheckpointError, ConfigError

GRID = "--batch 1 4 --context 8 40 --prompt-tokens 8 32 64 --dtype float32"


@pytest.fixture(scope="module")
def parser():
    parser = argparse.ArgumentParser(prog="lmcourse")
    bench.add_parser(parser.add_subparsers())
    return parser


def run(parser, words):
    args = parser.parse_args(["bench", *words.split()])
    assert args.func(args) == 0


@pytest.fixture(scope="module")
def steps(parser, tmp_path_factory):
    path = tmp_path_factory.mktemp("steps") / "steps.json"
    run(parser, f"steps dummy:tiny {GRID} --out {path}")
    return path


def test_bench_steps_writes_a_table_with_its_machine(steps):
    table = json.loads(steps.read_text("utf-8"))
    assert [row["batch"] for row in table["decode"]] == [1, 1, 4, 4]
    assert {"prompts": 1, "each": 64}.items() <= table["prompts"][2].items()
    assert table["machine"]["cpu"]
    assert table["model"] == "dummy:tiny"


def test_bench_capacity_reads_a_table_and_tells_the_same_twice(parser, steps, capsys, tmp_path):
    words = f"capacity dummy:tiny --steps {steps} --students 2 9 --prompt 12 --answer 9 --minutes 0.2"
    run(parser, f"{words} --largest --fleet 30000 --goal 0.05 2000 --out {tmp_path / 'c.json'}")
    told = capsys.readouterr().out
    run(parser, f"{words} --largest --fleet 30000 --goal 0.05 2000")
    assert capsys.readouterr().out == told
    assert told.count("simulated") == 2
    assert "one engine" in told
    result = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert [row["students"] for row in result["rows"]] == [2, 9]
    assert result["goal"] == {"ttft": 0.05, "rate": 2000.0}
    assert result["most_students"] >= 0


def test_bench_capacity_measures_and_checks_on_the_engine(parser, capsys):
    run(parser, f"capacity dummy:tiny {GRID} --students 3 --think 0.1 --prompt 9 --answer 5 --minutes 0.005 --check")
    told = capsys.readouterr().out
    assert told.count("measured") >= 1
    assert "simulated" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [("--fleet 30", "largest"), ("--think -1", "think"), ("--minutes 0", "time"), ("--goal 0 1", "goal"),
     ("--check", "steps"), ("--check --server http://x", "server"), ("--quant-policy 8", "quant_policy=8")],
)  # fmt: skip
def test_bench_capacity_with_bad_settings_is_one_error(parser, steps, words, message):
    args = parser.parse_args(["bench", "capacity", "--steps", str(steps), *words.split()])
    with pytest.raises(ConfigError, match=message):
        args.func(args)


def test_bench_capacity_without_its_file_or_model_says_which_there_are(parser, steps, tmp_path):
    args = parser.parse_args(["bench", "capacity", "--steps", str(tmp_path / "none.json")])
    with pytest.raises(CheckpointError, match="bench steps"):
        args.func(args)
    args = parser.parse_args(["bench", "capacity", "other", "--steps", str(steps)])
    with pytest.raises(ConfigError, match="dummy:tiny"):
        args.func(args)


@pytest.mark.parametrize("words", ["--students 0", "--prompt x", "--goal 1", "--students"])
def test_bench_capacity_refuses_what_is_no_number(parser, words, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["bench", "capacity", *words.split()])
    assert "error" in capsys.readouterr().err
