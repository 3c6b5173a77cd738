"""Recorded tables hold what the files hold, and say where it was measured."""

from __future__ import annotations

import json

from lmcourse.bench import read_peers
from lmcourse.teach import recorded, recorded_decode, recorded_kv_accuracy

LINE = {
    "model": "dummy:internlm2-1_8b", "weight_format": "hf", "dtype": "float16", "settings": {"quant_policy": 8},
    "machine": {"gpu": "NVIDIA H200", "cpu": "x", "date": "2026-01-02"},
    "speeds": [{"what": "decode", "size": 64, "value": 1.0}, {"what": "prefill", "size": 9, "value": 2.0}],
}  # fmt: skip


def test_recorded_decode_holds_the_peers() -> None:
    table = recorded_decode("internlm2-1_8b", settings=("fp16", "fp16, KV int8"), programs=("TurboMind",))
    peer = next(r for r in read_peers()["rows"] if r["setting"] == "fp16, KV int8" and r["model"] == "internlm2-1_8b")
    assert all(name.startswith(("TurboMind", "lmcourse")) for name, *_ in table.rows)
    row = next(row for row in table.rows if row[0] == f"{peer['name']}, fp16, KV int8")
    assert row[1][64] == peer["values"]["decode 64"]
    assert "NVIDIA H200, 20" in repr(table)
    assert f"{peer['values']['decode 64']:,}" in repr(table)


def test_recorded_decode_takes_the_latest_line_of_the_ledger(monkeypatch, tmp_path) -> None:
    later = LINE | {"speeds": [{"what": "decode", "size": 64, "value": 5.0}]}
    other = LINE | {"settings": {"quant_policy": 8, "cuda_graphs": False}}
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (LINE, later, other)))
    monkeypatch.setattr(recorded, "_LEDGER", path)
    table = recorded_decode("internlm2-1_8b", settings=("fp16, KV int8",))
    assert table.rows[-1] == ("lmcourse, fp16, KV int8", {64: 5.0}, "NVIDIA H200, 2026-01-02")


def test_recorded_kv_accuracy_holds_every_task() -> None:
    told = recorded_kv_accuracy()
    result = json.loads((recorded._BENCHMARKS / "kv_accuracy_cpu.json").read_text("utf-8"))
    assert [line.split()[0] for line in told.splitlines()[1:-1]] == list(result["tasks"])
    assert f"{result['tasks']['arithmetic']['int4']:.1%}" in told
    assert result["machine"]["date"] in told


def test_recorded_decode_of_what_nobody_measured_says_so(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(recorded, "_LEDGER", tmp_path / "none")
    assert repr(recorded_decode("none", settings=("fp16",))) == "nothing was recorded"
