"""`lmcourse bench`: arguments and the file it writes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from lmcourse.cli import bench
from lmcourse.errors import CheckpointError, MachineError


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(prog="lmcourse")
    bench.add_parser(parser.add_subparsers())
    return parser


def test_bench_throughput_prints_a_table_and_writes_json(parser, tmp_path, capsys):
    words = "bench throughput tiny-chat --num-requests 2 --prompt-lens 2 9 --output-lens 2 5 --repeats 1 --seed 4"
    args = parser.parse_args([*words.split(), "--baseline", "--dtype", "float32", "--output", str(tmp_path / "r.json")])
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


@pytest.fixture
def run(parser, tmp_path, capsys):
    """Runs a command with --out, and gives back what it printed and what it wrote."""

    def run_words(words):
        args = parser.parse_args(["bench", *words.split(), "--out", str(tmp_path / "r.json"), "--dtype", "float32"])
        assert args.func(args) == 0
        return capsys.readouterr().out, json.loads((tmp_path / "r.json").read_text("utf-8"))

    return run_words


def test_bench_decode_tells_each_batch_beside_the_limit(run):
    told, result = run("decode dummy:tiny --batch 1 3 --prompt-len 5 --output-len 4 --repeats 2 --note why")
    assert "copy" in told
    assert "3 at once" in told
    assert [(row["what"], row["size"]) for row in result["speeds"]] == [("decode", 1), ("decode", 3)]
    for row in result["speeds"]:
        assert row["fraction"] == pytest.approx(row["value"] / row["limit"], rel=1e-3, abs=1e-4)
    assert (result["model"], result["note"], result["dtype"]) == ("dummy:tiny", "why", "float32")
    assert result["copy_tb_s"] > 0
    assert {"engine", "first answer"} == result["start_seconds"].keys()


def test_bench_decode_with_switches_off_says_so(run):
    words = "decode dummy:tiny --batch 1 --prompt-len 4 --output-len 3 --repeats 1 --no-cuda-graphs --no-overlap"
    settings = run(words)[1]["settings"]
    assert (settings["cuda_graphs"], settings["overlap"]) == (False, False)


def test_bench_decode_profile_and_baseline(run):
    told, result = run(
        "decode dummy:tiny --batch 2 --prompt-len 4 --output-len 3 --repeats 1 --profile --baseline eager"
    )
    assert "µs a step" in told
    assert any("mm" in row["name"] for row in result["profile"]["kernels"])
    assert [row["what"] for row in result["speeds"]] == ["decode", "transformers eager"]


def test_bench_prefill_tells_milliseconds(run):
    told, result = run("prefill tiny-chat --num-tokens 7 30 --repeats 2")
    assert "30 tokens" in told
    assert [(row["what"], row["size"], row["unit"]) for row in result["speeds"]] == [
        ("prefill", 7, "ms"), ("prefill", 30, "ms"),
    ]  # fmt: skip
    for row in result["speeds"]:
        assert row["fraction"] == pytest.approx(row["limit"] / row["value"], rel=1e-3, abs=1e-4)


def test_bench_throughput_alone_counts_what_was_served(run):
    _, result = run("throughput dummy:tiny --num-requests 3 --prompt-lens 4 9 --output-lens 2 6 --repeats 1 --seed 3")
    assert [(row["what"], row["size"]) for row in result["speeds"]] == [("serving", 3)]
    assert 6 <= result["num_output_tokens"] <= 18
    assert result["seed"] == 3


def test_bench_startup_times_a_process_of_its_own(run):
    told, result = run("startup dummy:tiny --repeats 1")
    assert "ready" in told
    (start,) = result["starts"]
    assert 0 < start["imported"] <= start["loaded"] <= start["ready"] == result["ready_seconds"]


def test_bench_startup_of_a_model_that_does_not_load_is_one_error(parser, monkeypatch):
    monkeypatch.setenv("LMCOURSE_DEVICE_MEMORY_GIB", "0.001")
    args = parser.parse_args(["bench", "startup", "dummy:tiny"])
    with pytest.raises(MachineError, match="failed"):
        args.func(args)


def test_bench_kernels_tells_each_operation(run):
    told, result = run("kernels dummy:tiny --num-tokens 1")
    assert "head, 1 tokens" in told
    assert {"qkv, 1 tokens", "swiglu, 256 tokens"} <= {row["name"] for row in result["kernels"]}
    assert all(row["fraction"] > 0 for row in result["kernels"])


def test_bench_ledger_shows_recorded_results_beside_others(parser, tmp_path, capsys):
    ledger = tmp_path / "ledger.jsonl"
    words = "bench decode dummy:tiny --batch 1 --prompt-len 4 --output-len 3 --repeats 1 --note so --ledger"
    for command in ([*words.split(), str(ledger)], ["bench", "ledger", str(ledger)]):
        args = parser.parse_args(command)
        assert args.func(args) == 0
    told = capsys.readouterr().out
    assert "TurboMind" in told
    assert "must reach" in told
    assert "lmcourse" in told.split("\ntiny\n")[1]
    assert len(ledger.read_text("utf-8").splitlines()) == 1


def test_bench_ledger_that_is_not_there_is_a_named_error(parser):
    args = parser.parse_args(["bench", "ledger", str(Path("no") / "ledger.jsonl")])
    with pytest.raises(CheckpointError, match="ledger"):
        args.func(args)


@pytest.mark.parametrize("kind", ["decode", "prefill", "throughput", "startup", "kernels", "ledger"])
def test_bench_help_tells_defaults_and_examples(parser, kind, capsys):
    with pytest.raises(SystemExit, match="0"):
        parser.parse_args(["bench", kind, "-h"])
    told = capsys.readouterr().out
    assert "(default:" in told
    assert "examples:" in told


@pytest.mark.parametrize(
    "words", ["bench", "bench decode --batch 0", "bench throughput --num-requests 0", "bench throughput --repeats x"]
)
def test_bench_with_bad_arguments_exits_2(parser, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(words.split())


def test_bench_memory_ladder_prints_three_tables_and_writes_json(parser, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("LMCOURSE_DEVICE_MEMORY_GIB", "0.25")
    args = parser.parse_args(["bench", "memory", "tiny-chat", "--ladder", "--output", str(tmp_path / "r.json")])
    assert args.func(args) == 0
    printed = capsys.readouterr().out
    assert printed.count("total, measured") == 3
    assert "not on one line" in printed
    result = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert [rung["cache_max_entry_count"] for rung in result["rungs"]] == [0.8, 0.5, 0.01]
