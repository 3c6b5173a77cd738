"""What quantisation costs tiny-chat on its held-out tasks: the cache (kv) or the weights (w4), through the engine.

    OMP_NUM_THREADS=1 python benchmarks/accuracy_cpu.py kv                      → kv_accuracy_cpu.json
    OMP_NUM_THREADS=1 python benchmarks/accuracy_cpu.py w4 --columns search     one column; others stay as they are

Greedy, float32. Each column is written as soon as it is whole; its tasks have the same instances as the other columns'.
w4 quantises first, with the classroom's 128 samples of 1024 tokens, and adds perplexity on unseen dialogues.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmcourse import GenerationConfig, TurbomindEngineConfig, model_path, pipeline
from lmcourse.bench import current_commit, describe_machine
from lmcourse.lite import METHODS, AwqJob, auto_awq, perplexity
from lmcourse.zoo.calibration import held_out_answers
from lmcourse.zoo.evaluate import evaluate
from lmcourse.zoo.tasks import TASKS

_HERE = Path(__file__).parent
_FEW = {"passkey": 2, "recall": 2}  # tasks with long prompts: so many times fewer instances
_DIALOGUES, _LONGEST, _SEED = 512, 160, 20261122
_CALIBRATION = (128, 1024)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


Column = Callable[[Path], tuple[Path, TurbomindEngineConfig]]


def _cache(policy: int) -> Column:
    return lambda _: (model_path("tiny-chat"), TurbomindEngineConfig(quant_policy=policy))


def _weights(method: str, bits: int) -> Column:
    def make(work: Path) -> tuple[Path, TurbomindEngineConfig]:
        samples, seqlen = _CALIBRATION
        job = AwqJob(calib_samples=samples, calib_seqlen=seqlen, method=METHODS[method], grid_bits=bits)
        started = time.perf_counter()
        folder = auto_awq(model_path("tiny-chat"), work / f"{method}-{bits}", job, device="cpu").folder
        _say(f"{method}, {bits} bits: quantised in {time.perf_counter() - started:.1f} s")
        return folder, TurbomindEngineConfig()

    return make


@dataclass(frozen=True)
class Table:
    """A JSON file and its columns."""

    about: str
    file: str
    columns: dict[str, Column]
    more: dict[str, Any] = field(default_factory=dict)
    with_perplexity: bool = False


TABLES = {
    "kv": Table("kv accuracy", "kv_accuracy_cpu.json",
                {"as computed": _cache(0), "int8": _cache(8), "int4": _cache(4)}),
    "w4": Table("w4 accuracy", "w4_accuracy_cpu.json",
                {"as computed": _cache(0)}
                | {f"{method}, {bits} bits": _weights(method, bits) for bits in (4, 3) for method in METHODS},
                {"calibration": "128 samples of 1,024 tokens of the bundled text", "group_size": 128},
                with_perplexity=True),
}  # fmt: skip


def measure(column: Column, instances: int, table: Table) -> dict[str, Any]:
    """One column: solved and asked by task, and perplexity where the table has it."""
    with tempfile.TemporaryDirectory() as work:
        folder, config = column(Path(work))
        out: dict[str, Any] = {"tasks": {}}
        with pipeline(str(folder), backend_config=config) as pipe:

            def generate(chats: list[list[dict[str, str]]]) -> list[str]:
                return [answer.text for answer in pipe(chats, gen_config=GenerationConfig(max_new_tokens=160))]

            for task in TASKS:
                count = instances // _FEW.get(task, 1)
                accuracy = evaluate(generate, count, (task,))[task]["accuracy"]
                out["tasks"][task] = (count, accuracy)
                _say(f"  {task:<12}{accuracy:8.2%} of {count}")
        if table.with_perplexity:
            tokenizer = model_path("tiny-chat") / "tokenizer.json"
            tokens, judged = held_out_answers(tokenizer, samples=_DIALOGUES, seqlen=_LONGEST, seed=_SEED)
            out["perplexity"] = perplexity(folder, tokens, judged, device="cpu")
            _say(f"  perplexity  {out['perplexity']:.5f}, of {_DIALOGUES} dialogues")
    return out


def enter(table: Table, name: str, found: dict[str, Any]) -> None:
    """Put a column into the file."""
    path = _HERE / table.file
    result = json.loads(path.read_text("utf-8")) if path.exists() else {}
    machine = describe_machine()
    head = {"benchmark": table.about, "model": "tiny-chat", "command": f"python benchmarks/accuracy_cpu.py "
            f"{next(key for key, value in TABLES.items() if value is table)}", **table.more}  # fmt: skip
    result = {**result, **head, "commit": current_commit(), "machine": {**machine, "dtype": "float32"}}
    for task, (count, accuracy) in found["tasks"].items():
        row = result.setdefault("tasks", {}).setdefault(task, {})
        if row.get("instances", count) != count:
            row.clear()
        row |= {"instances": count, name: accuracy}
    if "perplexity" in found:
        values = result.setdefault("perplexity", {"dialogues": _DIALOGUES, "longest": _LONGEST, "seed": _SEED})
        values[name] = round(found["perplexity"], 6)
        values["nats per token"] = {key: round(math.log(values[key]), 6) for key in table.columns if key in values}
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Every column asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--columns", nargs="+", help="which (default: all)")
    parser.add_argument("--instances", type=int, default=400, help="a task; half as many with long prompts")
    args = parser.parse_args()
    table = TABLES[args.table]
    for name in args.columns or table.columns:
        _say(name)
        enter(table, name, measure(table.columns[name], args.instances, table))


if __name__ == "__main__":
    main()
