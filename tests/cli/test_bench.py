"""`lmcourse bench`: arguments and the file it writes."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from lmcourse.cli import bench


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(prog="lmcourse")
    bench.add_parser(parser.add_subparsers())
    return parser


def test_bench_throughput_prints_a_table_and_writes_json(parser, tmp_path, capsys):
    words = "bench throughput tiny-chat --num-requests 2 --prompt-lens 2 9 --output-lens 2 5 --repeats 1 --seed 4"
    args = parser.parse_args([*words.split(), "--dtype", "float32", "--output", str(tmp_path / "r.json")])
    assert args.func(args) == 0
    assert "times sooner" in capsys.readouterr().out
    result = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert result["benchmark"] == "throughput"
    assert (result["num_requests"], result["seed"], result["num_same"]) == (2, 4, 2)


def test_bench_throughput_threads_are_set(parser, monkeypatch, capsys):
    before = torch.get_num_threads()
    words = "bench throughput tiny-chat --num-requests 1 --prompt-lens 2 2 --output-lens 2 2 --repeats 1 --threads 1"
    try:
        args = parser.parse_args(words.split())
        args.func(args)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("words", ["bench", "bench throughput --num-requests 0", "bench throughput --repeats x"])
def test_bench_with_bad_arguments_exits_2(parser, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(words.split())
