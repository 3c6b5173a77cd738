"""The ledger: lines added, the latest shown by model, setting and machine, others' figures beside them."""

from __future__ import annotations

import pytest

from lmcourse.bench import append_to_ledger, format_ledger, read_ledger, read_peers
from lmcourse.errors import CheckpointError, StorageError


def line(value, *, model="dummy:internlm2-1_8b", commit="abc", **changes):
    machine = {"gpu": "NVIDIA H200", "cpu": "a CPU", "date": "2026-11-22"}
    speeds = [{"what": "decode", "size": 1, "value": value}]
    return {
        "model": model,
        "dtype": "float16",
        "settings": {},
        "weight_format": "hf",
        "machine": machine,
        "commit": commit,
        "speeds": speeds,
    } | changes


def row_of(text, beginning):
    return next(row for row in text.splitlines() if row.startswith(beginning))


def test_append_adds_lines_and_read_gives_them_back(tmp_path):
    path = tmp_path / "a" / "ledger.jsonl"
    for value in (1.0, 2.0):
        append_to_ledger(path, line(value, note="上海"))
    assert [entry["speeds"][0]["value"] for entry in read_ledger(path)] == [1.0, 2.0]
    assert read_ledger(path)[0]["note"] == "上海"


def test_format_ledger_shows_the_latest_of_each_setting():
    lines = [
        line(900.0), line(901.0),
        line(950.0, settings={"quant_policy": 8}),
        line(300.0, settings={"cuda_graphs": False, "overlap": False}),
        line(1500.0, model="dummy:internlm2-1_8b:awq", weight_format="awq"),
        line(0.0, speeds=[], ready_seconds=9.5),
    ]  # fmt: skip
    text = format_ledger(lines, read_peers())
    assert row_of(text, "lmcourse, fp16, NVIDIA").split()[4:] == ["901", "-", "-", "-", "-", "-", "-", "9.5"]
    assert "300" in row_of(text, "lmcourse, fp16, no graphs, no overlap, NVIDIA")
    assert "950" in row_of(text, "lmcourse, fp16, KV int8")
    assert "1,500" in row_of(text, "lmcourse, AWQ")
    assert "519" in row_of(text, "TurboMind, fp16 ")


def test_format_ledger_tells_notes_and_sources():
    text = format_ledger([line(1.0, note="bound by launches")], read_peers())
    assert "abc: bound by launches" in text
    assert "vLLM 0.22.1" in text
    assert "2026-11-22" in text


@pytest.mark.parametrize("content", ["{", "[1]\nx"])
def test_read_ledger_that_is_damaged_is_a_named_error(tmp_path, content):
    (tmp_path / "l.jsonl").write_text(content)
    with pytest.raises(CheckpointError, match="ledger"):
        read_ledger(tmp_path / "l.jsonl")


def test_append_to_a_place_that_is_none_is_a_named_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        append_to_ledger(tmp_path / "file" / "l.jsonl", line(1.0))


def test_course_ledger_can_be_read_and_every_line_names_its_commit():
    from lmcourse.cli.bench_ledger import _LEDGER

    for entry in read_ledger(_LEDGER):
        assert entry["commit"]
        assert entry["machine"]["date"]
        assert entry.get("speeds") or entry.get("ready_seconds")
