"""Recorded tables hold what the files hold, and say where it was measured."""

from __future__ import annotations

import json

import pytest

from lmcourse.bench import read_peers
from lmcourse.teach import recorded, recorded_decode, recorded_kv_accuracy, recorded_queue, recorded_w4_accuracy

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
    assert "  H200, 20" in repr(table)
    assert all(len(line) <= 105 for line in repr(table).splitlines()), "wider than JupyterLab's page"
    assert f"{peer['values']['decode 64']:,}" in repr(table)


def test_recorded_decode_takes_the_latest_line_of_the_ledger(monkeypatch, tmp_path) -> None:
    later = LINE | {"speeds": [{"what": "decode", "size": 64, "value": 5.0}]}
    other = LINE | {"settings": {"quant_policy": 8, "cuda_graphs": False}}
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (LINE, later, other)))
    monkeypatch.setattr(recorded, "_LEDGER", path)
    table = recorded_decode("internlm2-1_8b", settings=("fp16, KV int8",))
    assert table.rows[-1] == ("lmcourse, fp16, KV int8", {64: 5.0}, "NVIDIA H200, 2026-01-02")


def test_recorded_decode_knows_a_model_in_4_bits_by_its_name(monkeypatch, tmp_path) -> None:
    packed = LINE | {"model": f"{LINE['model']}:awq", "weight_format": "awq", "settings": {}}
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (LINE, packed)))
    monkeypatch.setattr(recorded, "_LEDGER", path)
    assert [name for name, *_ in recorded_decode("internlm2-1_8b", settings=("AWQ",)).rows] == ["lmcourse, AWQ"]


@pytest.mark.parametrize(
    ("show", "file"),
    [(recorded_kv_accuracy, "kv_accuracy_cpu.json"), (recorded_w4_accuracy, "w4_accuracy_h200.json")],
)
def test_recorded_accuracy_holds_every_task_and_column(show, file) -> None:
    told, result = show().splitlines(), json.loads((recorded._BENCHMARKS / file).read_text("utf-8"))
    rows = {line.split()[0]: line.split() for line in told[1:-1] if not line.startswith(" ")}
    assert [name for name in rows if name != "perplexity"] == list(result["tasks"])
    for task, row in result["tasks"].items():
        found = [value for key, value in row.items() if key != "instances"]
        columns = [value["solved"] if isinstance(value, dict) else value for value in found]
        assert rows[task][1:] == [f"{row['instances']:,}", *(f"{value:.1%}" for value in columns)]
    assert ("perplexity" in rows) == ("perplexity" in result)
    machine = result["machine"]
    assert machine["date"] in told[-1]
    assert (machine["gpu"] or machine["cpu"]) in told[-1]


def test_recorded_accuracy_puts_the_parts_of_a_name_one_below_the_other() -> None:
    names, bits = recorded_w4_accuracy().splitlines()[:2]
    forms = list(json.loads((recorded._BENCHMARKS / "w4_accuracy_h200.json").read_text("utf-8"))["tasks"]["tools"])[1:]
    for place, form in enumerate(forms, start=1):
        column = slice(20 + (place - 1) * 13, 20 + place * 13)
        assert ", ".join(filter(None, (names[column].strip(), bits[column].strip()))) == form


def test_recorded_accuracy_that_is_not_there_says_so(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(recorded, "_BENCHMARKS", tmp_path)
    assert recorded_kv_accuracy() == "nothing was recorded"


def test_recorded_decode_of_steps_is_another_table(monkeypatch, tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    step = LINE | {"speeds": [{"what": "step, context 1024", "size": 8, "value": 7.0}]}
    path.write_text("".join(json.dumps(line) + "\n" for line in (step, LINE)))
    monkeypatch.setattr(recorded, "_LEDGER", path)
    table = recorded_decode("internlm2-1_8b", settings=("fp16, KV int8",), what="step, context 1024")
    assert [values for _, values, _ in table.rows] == [{8: 7.0}]


def test_recorded_decode_of_what_nobody_measured_says_so(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(recorded, "_LEDGER", tmp_path / "none")
    assert repr(recorded_decode("none", settings=("fp16",))) == "nothing was recorded"


def test_recorded_queue_tells_both_clocks_and_the_machine(monkeypatch, tmp_path) -> None:
    assert recorded_queue().endswith("recorded on NVIDIA H200, 2026-11-22")
    ordered, waited = (float(line.split()[-2]) for line in recorded_queue().splitlines()[:2])
    assert ordered < waited
    monkeypatch.setattr(recorded, "_BENCHMARKS", tmp_path)
    assert recorded_queue() == "nothing was recorded"
