"""The ledger: every result that counts, one JSON object a line, and a table of the latest beside what others reach.

A line is what a benchmark wrote, with commit, date, hardware and a note on what bounds it. Lines are only ever added.
peers.json holds what other engines reach on the same workloads, and what this one must: with source and date.

Lesson: 3 (predict, then measure)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmcourse.errors import CheckpointError, StorageError

__all__ = ["append_to_ledger", "format_ledger", "read_ledger", "read_peers"]

_COLUMNS = {
    "decode 1": "B=1", "decode 8": "B=8", "decode 64": "B=64", "decode 256": "B=256",
    "prefill 1024": "1024, ms", "prefill 3968": "3968, ms", "serving 256": "256 requests", "start": "start, s",
}  # fmt: skip
_KV = {0: "", 4: ", KV int4", 8: ", KV int8"}


def append_to_ledger(path: Path, result: Mapping[str, Any]) -> None:
    """Add one line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
    except OSError as error:
        raise StorageError("the ledger could not be written", got=error, where=path) from error


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All lines, oldest first."""
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "the ledger cannot be read",
            expected="one JSON object a line",
            got=error,
            where=path,
            next_step="name the file: lmcourse bench ledger FILE (the course's is benchmarks/ledger.jsonl)",
        ) from error


def read_peers() -> dict[str, Any]:
    """What others reach, with source and date."""
    peers: dict[str, Any] = json.loads((Path(__file__).parent / "peers.json").read_text("utf-8"))
    return peers


def format_ledger(lines: Iterable[Mapping[str, Any]], peers: Mapping[str, Any]) -> str:
    """One table per model: others, floors, and this engine's latest value of each kind by setting and machine."""
    ours = _latest(lines)
    models = dict.fromkeys([*(row["model"] for row in peers["rows"]), *(key[0] for key in ours)])
    parts = []
    for model in models:
        rows = [(f"{row['name']}, {row['setting']}", row["values"]) for row in peers["rows"] if row["model"] == model]
        rows += [
            (f"lmcourse, {setting}, {machine}", values) for (name, setting, machine), values in ours.items()
            if name == model and values.keys() & _COLUMNS.keys()
        ]  # fmt: skip
        parts.append(f"{model}\n{_table(rows)}")
    return "\n\n".join([*parts, *_notes(lines), f"others: {peers['date']}, {peers['source']}"])


def _latest(lines: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[str, float]]:
    """Later lines replace earlier values of the same model, setting and machine."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for line in lines:
        machine = line["machine"]["gpu"] or line["machine"]["cpu"]
        values = found.setdefault((_plain_name(line["model"]), _setting(line), machine), {})
        values.update({f"{speed['what']} {speed['size']}": speed["value"] for speed in line.get("speeds", ())})
        if "ready_seconds" in line:
            values["start"] = line["ready_seconds"]
    return found


def _plain_name(model: str) -> str:
    return Path(model).name.removeprefix("dummy:").partition(":")[0]


def _setting(line: Mapping[str, Any]) -> str:
    weights = "AWQ" if line["weight_format"] == "awq" else line["dtype"].replace("float", "fp")
    switched = [f", no {name}" for name in ("cuda_graphs", "overlap") if line["settings"].get(name) is False]
    return "".join([weights, _KV[line["settings"].get("quant_policy", 0)], *switched]).replace("cuda_", "")


def _table(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    lines = [" " * width + "".join(f"{title:>13}" for title in _COLUMNS.values())]
    for name, values in rows:
        cells = (
            f"{values[key]:>13,.4g}" if values.get(key, 1e9) < 1000 else _whole(values.get(key)) for key in _COLUMNS
        )
        lines.append(name.ljust(width) + "".join(cells))
    return "\n".join(lines)


def _whole(value: float | None) -> str:
    return f"{'-':>13}" if value is None else f"{value:>13,.0f}"


def _notes(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    told = [f"{line['machine']['date']} {line['commit']}: {line['note']}" for line in lines if line.get("note")]
    return ["\n".join(told)] if told else []
