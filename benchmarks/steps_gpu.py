"""Step times for `lmcourse bench capacity`, and the simulation that they drive against the engine on the same card.

    python benchmarks/steps_gpu.py [NAME …]     of SETTINGS, in their order (default: all); results in $OUT/steps.json

For each setting: the table of step times; classes of students on the engine in real time, and simulated; 256 requests
of 100 to 1024 tokens at once, run and simulated. SECONDS_LEFT stops before a setting for which no time is left.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from lmcourse.bench import mixed_requests, open_stand, write_json
from lmcourse.bench.capacity import ClassLoad, run_class
from lmcourse.bench.capacity_machine import EngineMachine, VirtualMachine
from lmcourse.bench.capacity_measure import Grid, measure_steps
from lmcourse.config import TurbomindEngineConfig

ON_GPU = torch.cuda.is_available()


class Setting(NamedTuple):
    model: str
    policy: int
    seconds: float  # it takes about so long
    classes: tuple[int, ...]  # students
    mixed_runs: int  # of 256 requests


SETTINGS = {
    "7B": Setting("dummy:llama2-7b", 0, 42, (64,), 0),
    "1.8B": Setting("dummy:internlm2-1_8b", 0, 38, (128,), 1),
    "7B-awq": Setting("dummy:llama2-7b:awq", 0, 34, (64,), 0),
    "1.8B-kv8": Setting("dummy:internlm2-1_8b", 8, 34, (128,), 1),
    "1.8B-awq": Setting("dummy:internlm2-1_8b:awq", 0, 30, (128,), 0),
}
if not ON_GPU:
    SETTINGS = {"tiny": Setting("tiny-chat", 0, 20, (2, 16), 1)}
COUNT, ENDS = (256, (100, 1024)) if ON_GPU else (12, (10, 60))


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def make_grid():
    if not ON_GPU:
        decodes = [(batch, context) for batch in (1, 4, 16) for context in (64, 256)]
        return Grid(tuple(decodes), ((1, 16), (1, 64), (1, 256), (4, 64)), ((4, 64, 64),))
    batches = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    decodes = [(batch, context) for batch in batches for context in (128, 700 if batch < 256 else 500)]
    decodes += [(batch, 1900) for batch in batches if batch <= 32]
    prompts = ((1, 16), (1, 64), (1, 128), (1, 256), (1, 512), (2, 512), (4, 512), (1, 2048), (8, 512), (16, 512))
    mixed = ((16, 512, 256), (64, 256, 256), (64, 256, 2048))
    return Grid(tuple(decodes), prompts, mixed, num_steps=16, repeats=3)


def compare_classes(stand, table, sizes):
    """Rows of what a class got from the engine, and from the simulation."""
    rows = []
    lens = {"prompt": 300, "answer": 200} if ON_GPU else {"prompt": 60, "answer": 30}
    for students in sizes:
        load = ClassLoad(students, think=0.5, seconds=2.0, start="spread", **lens)
        run_class(load, EngineMachine(stand.engine))  # records what this class needs
        runs = [run_class(load, machine) for machine in (EngineMachine(stand.engine), VirtualMachine(table))]
        measured, simulated = (result.to_json() for result in runs)
        rows.append({"measured": measured, "simulated": simulated})
        for name in ("tokens_per_second", "ttft_seconds", "tokens_per_second_each"):
            say(f"  {students} students, {name}: {measured[name]} measured, {simulated[name]} simulated")
    return rows


def run_all(machine, requests):
    """Tokens per second of all at once."""
    for request in requests:
        machine.ask(len(request.prompt_ids), request.num_output_tokens)
    started = machine.now
    while machine.has_work:
        machine.advance()
    return sum(request.num_output_tokens for request in requests) / (machine.now - started)


def compare_mixed(stand, table, runs):
    requests = mixed_requests(COUNT, vocab=stand.spec.vocab, prompt_lens=ENDS, output_lens=ENDS)
    simulated = run_all(VirtualMachine(table), requests)
    measured = [run_all(EngineMachine(stand.engine), requests) for _ in range(runs)]
    say(f"  {COUNT} requests: {[round(rate) for rate in measured]} tok/s measured, {simulated:.0f} simulated")
    return {"requests": COUNT, "lens": ENDS, "measured_tok_s": measured, "simulated_tok_s": simulated}


def main():
    names = sys.argv[1:] or list(SETTINGS)
    end = time.monotonic() + float(os.environ.get("SECONDS_LEFT", "1e9"))
    tables, checks = [], []
    for name in names:
        setting = SETTINGS[name]
        if time.monotonic() + setting.seconds > end:
            say(f"no time for {name}")
            continue
        started = time.monotonic()
        settings = {"session_len": 4096 if ON_GPU else 1024, "max_batch_size": 256 if ON_GPU else 16}
        with open_stand(setting.model, TurbomindEngineConfig(quant_policy=setting.policy, **settings)) as stand:
            table = measure_steps(stand, make_grid())
            say(f"{table.name}: table after {time.monotonic() - started:.1f} s, saved {table.saved_ms:.2f} ms")
            tables.append(table.to_json())
            check = {"name": name, "classes": compare_classes(stand, table, setting.classes)}
            check["mixed"] = compare_mixed(stand, table, setting.mixed_runs)
            checks.append(check)
        say(f"  {name}: {time.monotonic() - started:.1f} s")
        write_json(Path(os.environ.get("OUT", ".")) / "steps.json", {"tables": tables, "checks": checks})


if __name__ == "__main__":
    main()
