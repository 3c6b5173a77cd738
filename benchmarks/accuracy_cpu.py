"""What quantisation costs tiny-chat on its held-out tasks: the cache (kv) or the weights (w4), through the engine.

    OMP_NUM_THREADS=1 python benchmarks/accuracy_cpu.py kv                      → kv_accuracy_cpu.json
    OMP_NUM_THREADS=1 python benchmarks/accuracy_cpu.py w4 --columns "search, 4 bits" --tasks tools --work FOLDER

Greedy, float32. Each task is written as soon as it is done; its instances are the same for all columns. w4 quantises
first, with the classroom's 128 samples of 1024 tokens, unless FOLDER has the model already, and adds the perplexity on
unseen dialogues (a task by the name of `perplexity`).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmcourse import GenerationConfig, TurbomindEngineConfig, model_path, pipeline
from lmcourse.bench import current_commit, describe_machine
from lmcourse.lite import METHODS, AwqJob, Method, auto_awq, perplexity
from lmcourse.zoo.calibration import held_out_answers
from lmcourse.zoo.evaluate import evaluate
from lmcourse.zoo.tasks import TASKS

_HERE = Path(__file__).parent
_FEW = {"passkey": 2, "recall": 2}  # tasks with long prompts: so many times fewer instances
_DIALOGUES, _LONGEST, _SEED = 512, 160, 20261122
_CALIBRATION = (128, 1024)
_PERPLEXITY = "perplexity"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


Column = Callable[[Path], tuple[Path, TurbomindEngineConfig]]


def _cache(policy: int) -> Column:
    return lambda _: (model_path("tiny-chat"), TurbomindEngineConfig(quant_policy=policy))


def _weights(method: Method, bits: int) -> Column:
    def make(work: Path) -> tuple[Path, TurbomindEngineConfig]:
        samples, seqlen = _CALIBRATION
        job = AwqJob(calib_samples=samples, calib_seqlen=seqlen, method=method, grid_bits=bits)
        folder, started = work / f"{method.name}-{method.compensates}-{bits}", time.process_time()
        if not folder.exists():
            auto_awq(model_path("tiny-chat"), folder, job, device="cpu")
            _say(f"{method.what}, {bits} bits: {time.process_time() - started:.1f} s of processor time")
        return folder, TurbomindEngineConfig()

    return make


_W4_METHODS = {"rtn": METHODS["rtn"], "smooth alone": METHODS["smooth"].plain(), "smooth": METHODS["smooth"],
               "search alone": METHODS["search"].plain(), "search": METHODS["search"]}  # fmt: skip


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
                | {f"{name}, {bits} bits": _weights(way, bits) for bits in (4, 3) for name, way in _W4_METHODS.items()},
                {"calibration": "128 samples of 1,024 tokens of the bundled text", "group_size": 128},
                with_perplexity=True),
}  # fmt: skip


def measure(column: Column, instances: int, tasks: Sequence[str], work: Path) -> Iterator[tuple[str, int, float]]:
    """(task, asked, solved or perplexity), one after the other."""
    folder, config = column(work)
    with pipeline(str(folder), backend_config=config) as pipe:

        def generate(chats: list[list[dict[str, str]]]) -> list[str]:
            return [answer.text for answer in pipe(chats, gen_config=GenerationConfig(max_new_tokens=160))]

        for task in tasks:
            if task == _PERPLEXITY:
                tokenizer = model_path("tiny-chat") / "tokenizer.json"
                tokens, judged = held_out_answers(tokenizer, samples=_DIALOGUES, seqlen=_LONGEST, seed=_SEED)
                yield task, _DIALOGUES, perplexity(folder, tokens, judged, device="cpu")
            else:
                count = instances // _FEW.get(task, 1)
                yield task, count, evaluate(generate, count, (task,))[task]["accuracy"]


def enter(table: Table, name: str, found: tuple[str, int, float]) -> None:
    """Put a figure into the file."""
    path, (task, count, value) = _HERE / table.file, found
    result = json.loads(path.read_text("utf-8")) if path.exists() else {}
    machine = describe_machine()
    head = {"benchmark": table.about, "model": "tiny-chat", "command": f"python benchmarks/accuracy_cpu.py "
            f"{next(key for key, value in TABLES.items() if value is table)}", **table.more}  # fmt: skip
    result = {**result, **head, "commit": current_commit(), "machine": {**machine, "dtype": "float32"}}
    if task == _PERPLEXITY:
        values = result.setdefault(_PERPLEXITY, {"dialogues": count, "longest": _LONGEST, "seed": _SEED})
        values[name] = round(value, 6)
        values["nats per token"] = {key: round(math.log(values[key]), 6) for key in table.columns if key in values}
    else:
        row = result.setdefault("tasks", {}).setdefault(task, {})
        if row.get("instances", count) != count:
            row.clear()
        row |= {"instances": count, name: value}
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Every column asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--columns", nargs="+", help="which (default: all)")
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS, _PERPLEXITY], help="which (default: all)")
    parser.add_argument("--instances", type=int, default=400, help="a task; half as many with long prompts")
    parser.add_argument("--work", type=Path, help="where quantised models are kept (default: nowhere)")
    args = parser.parse_args()
    table = TABLES[args.table]
    tasks = args.tasks or [*TASKS, *([_PERPLEXITY] if table.with_perplexity else [])]
    with tempfile.TemporaryDirectory() as nowhere:
        for name in args.columns or table.columns:
            for found in measure(table.columns[name], args.instances, tasks, args.work or Path(nowhere)):
                _say(f"{name:<24}{found[0]:<12} {found[2]:.5f} of {found[1]}")
                enter(table, name, found)


if __name__ == "__main__":
    main()
