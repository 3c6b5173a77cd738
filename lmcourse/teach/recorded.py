"""Results that were measured elsewhere, for readers whose machine cannot measure them: each with machine and date.

    recorded_decode("internlm2-1_8b", settings=("fp16", "fp16, KV int8"), programs=("TurboMind",))
        TurboMind  fp16            519 …       H200, 2026-11-22
        lmcourse   fp16, KV int8   …           from benchmarks/ledger.jsonl, the latest of each

Lesson: 3 (KV8 and KV4), 4 (what is lost)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmcourse
from lmcourse.bench import read_ledger, read_peers

__all__ = ["RecordedTable", "recorded_decode", "recorded_kv_accuracy", "recorded_queue", "recorded_w4_accuracy"]

_BENCHMARKS = Path(lmcourse.__file__).parents[1] / "benchmarks"
_LEDGER = _BENCHMARKS / "ledger.jsonl"
_BATCHES = (1, 8, 64, 256)  # what everybody measured
_WIDTH = 13  # of a column of the tables of accuracy
_KV_SETTINGS = {0: "", 4: ", KV int4", 8: ", KV int8"}


@dataclass(frozen=True)
class RecordedTable:
    """Tokens per second by batch size; a row is (program and setting, {batch size: value}, machine and date)."""

    rows: tuple[tuple[str, Mapping[int, float], str], ...]

    def __repr__(self) -> str:
        if not self.rows:
            return "nothing was recorded"
        sizes = sorted({size for _, values, _ in self.rows for size in values})
        width = max(len(name) for name, *_ in self.rows)
        lines = ["new tokens/s".ljust(width) + "".join(f"{f'batch {size}':>11}" for size in sizes) + "  measured on"]
        for name, values, place in self.rows:
            cells = "".join(f"{values[size]:>11,.0f}" if size in values else f"{'-':>11}" for size in sizes)
            lines.append(f"{name.ljust(width)}{cells}  {place.removeprefix('NVIDIA ')}")
        return "\n".join(lines)


def recorded_decode(
    model: str, *, settings: Sequence[str], programs: Sequence[str] = (), what: str = "decode"
) -> RecordedTable:
    """What was recorded of decoding with these settings: the named other engines, then this one, from the ledger.

    what "step, context 1024": whole steps at that context, timed without the scheduler.
    """
    peers = read_peers()
    rows = [
        (f"{row['name']}, {row['setting']}", _decode_values(row["values"], what), f"NVIDIA H200, {peers['date']}")
        for row in peers["rows"]
        if row["model"] == model and row["setting"] in settings and row["name"] in programs
    ]
    own: dict[str, tuple[str, Mapping[int, float], str]] = {}
    for line in read_ledger(_LEDGER) if _LEDGER.exists() else []:
        setting = _setting(line)
        found = {f"{speed['what']} {speed['size']}": speed["value"] for speed in line.get("speeds", ())}
        values = _decode_values(found, what)
        named = line["model"].removeprefix("dummy:").removesuffix(":awq")
        if named == model and setting in settings and values:
            machine = line["machine"]
            own[setting] = (f"lmcourse, {setting}", values, f"{machine['gpu'] or machine['cpu']}, {machine['date']}")
    return RecordedTable(tuple(row for row in (*rows, *own.values()) if row[1]))


def recorded_kv_accuracy() -> str:
    """Share of held-out tasks that tiny-chat solves with its cache as computed, in int8 and in int4."""
    return _accuracy("kv_accuracy_cpu.json")


def recorded_w4_accuracy() -> str:
    """The same for its weights: as computed, and rounded in several ways to 4 and to 3 bits; perplexity below."""
    return _accuracy("w4_accuracy_h200.json")


def _accuracy(name: str) -> str:
    path = _BENCHMARKS / name
    if not path.exists():
        return "nothing was recorded"
    result = json.loads(path.read_text("utf-8"))
    tasks = result["tasks"]
    forms = [form for form in next(iter(tasks.values())) if form != "instances"]
    lines = _heads(forms)
    for task, row in tasks.items():
        cells = "".join(f"{_solved(row[form]):>{_WIDTH}.1%}" for form in forms)
        lines.append(f"{task:<14}{row['instances']:>6,}{cells}")
    if "perplexity" in result:
        values = result["perplexity"]
        cells = "".join(f"{values[form]:>{_WIDTH}.4f}" for form in forms)
        lines.append(f"{'perplexity':<14}{values.get('dialogues', ''):>6}{cells}")
    machine = result["machine"]
    dtype = result.get("dtype") or machine["dtype"]
    return "\n".join([*lines, f"{machine['gpu'] or machine['cpu']}, {dtype}, {machine['date']}"])


def _heads(forms: Sequence[str]) -> list[str]:
    """One line of names, and a second one where a name has two parts: "search, 4 bits"."""
    names = [form.partition(", ") for form in forms]
    lines = ["solved".ljust(14) + f"{'asked':>6}" + "".join(f"{name:>{_WIDTH}}" for name, _, _ in names)]
    if any(bits for *_, bits in names):
        lines.append(" " * 20 + "".join(f"{bits:>{_WIDTH}}" for *_, bits in names))
    return lines


def _solved(found: float | Mapping[str, float]) -> float:
    """The share itself, or the share of a record that holds differences, too."""
    return found["solved"] if isinstance(found, Mapping) else found


def recorded_queue() -> str:
    """Ten large products on a GPU, the clock stopped before and after waiting for them."""
    path = _BENCHMARKS / "contest_h200.json"
    if not path.exists():
        return "nothing was recorded"
    result = json.loads(path.read_text("utf-8"))
    times, machine = result["queue_ms"], result["machine"]
    lines = [
        f"synchronised: {wait!s:<6} {times[name]:8.2f} ms" for wait, name in ((False, "ordered"), (True, "waited"))
    ]
    return "\n".join([*lines, f"recorded on {machine['gpu']}, {machine['date']}"])


def _decode_values(values: Mapping[str, float], what: str) -> dict[int, float]:
    named = {name.rpartition(" "): value for name, value in values.items()}
    sizes = {int(size): value for (name, _, size), value in named.items() if name == what}
    return {size: sizes[size] for size in _BATCHES if size in sizes}


def _setting(line: Mapping[str, Any]) -> str:
    settings = line["settings"]
    weights = "AWQ" if line["weight_format"] == "awq" else line["dtype"].replace("float", "fp")
    switched = "".join(f", no {name}" for name in ("cuda_graphs", "overlap") if settings.get(name) is False)
    return weights + _KV_SETTINGS[settings.get("quant_policy", 0)] + switched
