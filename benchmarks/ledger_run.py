"""The figures of the ledger, in one process: models and settings by row, most wanted first, until the time is up.

    python benchmarks/ledger_run.py                               everything, about 4 minutes on an H200
    python benchmarks/ledger_run.py fp16 7B                       some rows
    OUT=/somewhere SECONDS_LEFT=200 python benchmarks/ledger_run.py    lines go to /somewhere/ledger.jsonl
    python benchmarks/ledger_run.py --warm ROW                    only compiles, into Triton's cache: side by side first
    python benchmarks/ledger_run.py --rehearse                    the same on a CPU with a tiny model

Lines are added to $OUT/ledger.jsonl as they come; append them to benchmarks/ledger.jsonl with a note on what bounds
each. LMCOURSE_COMMIT names the commit where the copy that runs has no repository.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from lmcourse.bench import (
    append_to_ledger,
    describe_machine,
    measure_decode,
    measure_prefill,
    measure_serving,
    measure_startup,
    mixed_requests,
    open_stand,
)
from lmcourse.config import TurbomindEngineConfig

STARTED, LIMIT_SECONDS = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
LEDGER = Path(os.environ.get("OUT", "build")) / "ledger.jsonl"


@dataclass(frozen=True)
class Row:
    """One engine and what it runs."""

    model: str
    settings: dict
    batches: tuple[int, ...] = (1, 8, 64, 256)
    prefills: tuple[int, ...] = ()
    num_requests: int = 0
    repeats: int = 3
    output_len: int = 257
    most_tokens: int = 1024  # of a request that is served


SMALL, LARGE = "dummy:internlm2-1_8b", "dummy:llama2-7b"
ROWS = {
    "fp16": Row(SMALL, {}, prefills=(1024, 3968), num_requests=256),
    "7B": Row(LARGE, {}, batches=(1, 64), prefills=(1024, 3968), num_requests=256, repeats=1),
    "awq": Row(f"{SMALL}:awq", {}, num_requests=256, repeats=1),
    "awq-int8": Row(f"{SMALL}:awq-int8", {}, batches=(1, 8), repeats=1),
    "kv8": Row(SMALL, {"quant_policy": 8}, num_requests=256, repeats=1),
    "7B-awq": Row(f"{LARGE}:awq", {}, batches=(1, 8, 64), repeats=1),
    "eager": Row(SMALL, {"cuda_graphs": False, "overlap": False}, batches=(1, 64), repeats=1),
}


def say(line: object) -> None:
    sys.stdout.write(f"{time.perf_counter() - STARTED:6.1f} s  {line}\n")
    sys.stdout.flush()


def run(row: Row) -> None:
    config = TurbomindEngineConfig(session_len=max((2047, *row.prefills)) + 1, max_batch_size=256, **row.settings)
    with open_stand(row.model, config) as stand:
        say(stand)
        works = [
            (
                "decode",
                [
                    lambda b=batch: measure_decode(stand, batch=b, output_len=row.output_len, repeats=row.repeats)
                    for batch in row.batches
                ],
            ),
            ("prefill", [lambda n=size: measure_prefill(stand, num_tokens=n) for size in row.prefills]),
            ("throughput", [lambda: serve(stand, row)] * (row.num_requests > 0)),
        ]
        for name, measures in works:
            speeds = []
            for measure in measures:
                if time.perf_counter() - STARTED < LIMIT_SECONDS:
                    speeds.append(measure())
                    say(speeds[-1])
            if speeds and "--warm" not in sys.argv:
                append_to_ledger(LEDGER, {**stand.head(name), "speeds": [speed.to_json() for speed in speeds]})


def serve(stand, row):
    """256 requests with 100 to 1024 tokens in and out; the engine has met every batch size in a shorter run before."""
    ends = (row.most_tokens * 100 // 1024, row.most_tokens)
    lens = {"prompt_lens": ends, "output_lens": ends}
    requests = mixed_requests(row.num_requests, vocab=stand.spec.vocab, **lens)
    short = [replace(request, num_output_tokens=request.num_output_tokens // 8) for request in requests]
    return measure_serving(stand, requests, repeats=row.repeats, warmup=short)


def start(row: Row) -> None:
    config = TurbomindEngineConfig(max_batch_size=256, **row.settings)
    times = measure_startup(row.model, config)
    say(f"{row.model} {row.settings}: {times}")
    head = {"benchmark": "startup", "model": row.model, "dtype": "float16", "commit": os.environ.get("LMCOURSE_COMMIT")}
    head["weight_format"] = "awq" if row.model.endswith(":awq") else "hf"
    line = {"settings": row.settings, "starts": [times], "ready_seconds": times["ready"], "machine": describe_machine()}
    append_to_ledger(LEDGER, head | line)


def warming(row: Row) -> Row:
    """Every batch and prompt once, briefly, in a cache that leaves room for others."""
    settings = row.settings | {"cache_max_entry_count": 600}
    return replace(row, settings=settings, num_requests=0, repeats=1, output_len=4)


def rehearsed(row: Row) -> Row:
    model = "dummy:tiny:awq" if row.model.endswith(":awq") else "dummy:tiny"
    settings = row.settings | {"cache_max_entry_count": 200}
    sizes = {"batches": (1, 2), "prefills": (64,), "num_requests": 3, "output_len": 9, "most_tokens": 80}
    return replace(row, model=model, settings=settings, repeats=1, **sizes)


def main() -> int:
    names = [name for name in sys.argv[1:] if not name.startswith("-")] or [
        "fp16",
        "7B",
        "awq",
        "kv8",
        "start",
        "7B-awq",
        "eager",
    ]
    failed = 0
    for name in names:
        row = ROWS["fp16" if name == "start" else name]
        row = rehearsed(row) if "--rehearse" in sys.argv else warming(row) if "--warm" in sys.argv else row
        if time.perf_counter() - STARTED > LIMIT_SECONDS:
            say(f"no time left for {name}")
            continue
        try:
            (start if name == "start" else run)(row)
        except Exception as error:  # the other rows still have something to say
            failed += 1
            say(f"FAILED {name}: {type(error).__name__}: {error}"[:500])
            sys.stderr.write(traceback.format_exc()[-2000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
