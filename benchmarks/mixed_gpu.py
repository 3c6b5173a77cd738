"""Where the time of 256 mixed requests goes: steps by batch size, the host's share, and kernels of three moments.

    python benchmarks/mixed_gpu.py MODEL quant_policy=8 …     the model's name and engine settings; results in $OUT

256 requests with prompts and outputs uniform in 100–1024, all given at once: two runs to record the graphs, one that is
timed step by step, one that is profiled where 200, 96 and 24 requests still run. WARM=1 stops after a short
run, FAST=1 before the profile.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from lmcourse.bench import mixed_requests, open_stand
from lmcourse.config import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import launch

WAITED = [0.0]
COUNT, ENDS = (256, (100, 1024)) if torch.cuda.is_available() else (9, (4, 30))
MOMENTS = (200, 96, 24)
PROFILED_STEPS = 8


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def watch_waiting():
    wait = launch.Fetch.wait

    def timed(fetch):
        start = time.perf_counter()
        copies = wait(fetch)
        WAITED[0] += time.perf_counter() - start
        return copies

    launch.Fetch.wait = timed


def begin(engine, requests):
    for request in requests:
        rule = GenerationConfig(max_new_tokens=request.num_output_tokens, ignore_eos=True)
        engine.add(list(request.prompt_ids), rule)


def run(engine, requests):
    """(seconds, steps as (running, tokens computed, ms, ms of waiting))."""
    begin(engine, requests)
    steps, started = [], time.perf_counter()
    computed = engine.stats().num_computed_tokens
    while engine.has_work:
        before, WAITED[0] = time.perf_counter(), 0.0
        engine.step()
        stats = engine.stats()
        steps.append(
            (stats.num_running, stats.num_computed_tokens - computed, 1e3 * (time.perf_counter() - before),
             1e3 * WAITED[0])
        )  # fmt: skip
        computed = stats.num_computed_tokens
    return time.perf_counter() - started, steps


def report(seconds, steps, num_output):
    say(f"{num_output / seconds:.0f} tok/s, {seconds:.2f} s, {len(steps)} steps")
    prompts = [step for step in steps if step[1] > COUNT]
    spent, waited = (sum(step[column] for step in prompts) for column in (2, 3))
    say(f"  {len(prompts)} steps with prompts: {spent:.0f} ms, waited {waited:.0f}")
    rows = []
    for low in (193, 129, 97, 65, 33, 17, 9, 1):
        high = {193: 256, 129: 192, 97: 128, 65: 96, 33: 64, 17: 32, 9: 16, 1: 8}[low]
        some = [step for step in steps if step[1] <= COUNT and low <= step[0] <= high]
        if some:
            total, host = sum(s[2] for s in some), statistics.median(s[2] - s[3] for s in some)
            rows.append((low, high, len(some), total, statistics.median(s[2] for s in some), host))
            say(f"  {low}–{high} running: {len(some)} steps, {total:.0f} ms; median {rows[-1][4]:.2f}, host {host:.2f}")
    return {"seconds": seconds, "steps": len(steps), "rows": rows}


def profile(engine, requests):
    """The kernels of a few steps at each moment."""
    begin(engine, requests)
    moments, tables = list(MOMENTS), {}
    while engine.has_work:
        engine.step()
        if moments and engine.stats().num_running <= moments[0] and engine.stats().num_waiting == 0:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profiler:
                for _ in range(PROFILED_STEPS):
                    engine.step()
                torch.cuda.synchronize()
            rows = sorted(profiler.key_averages(), key=lambda row: -row.self_device_time_total)
            table = [(row.key[:60], row.self_device_time_total / PROFILED_STEPS, row.count) for row in rows[:12]]
            tables[moments[0]] = table
            say(
                f"  {moments.pop(0)} running, µs a step: " + "; ".join(f"{n[:36]} {us:.0f} ({c})" for n, us, c in table)
            )
    return tables


def main():
    model, *settings = sys.argv[1:]
    given = {name: int(value) for name, value in (item.split("=") for item in settings)}
    config = TurbomindEngineConfig(**{"session_len": 2048, "max_batch_size": COUNT, **given})
    watch_waiting()
    with open_stand(model, config) as stand:
        requests = mixed_requests(COUNT, vocab=stand.spec.vocab, prompt_lens=ENDS, output_lens=ENDS)
        num_output = sum(request.num_output_tokens for request in requests)
        run(
            stand.engine,
            [replace(request, num_output_tokens=request.num_output_tokens // 8 + 2) for request in requests],
        )
        if os.environ.get("WARM"):
            return
        results = {"model": model, "settings": given, "tok_s": []}
        for _ in range(2):
            seconds, steps = run(stand.engine, requests)
            results["tok_s"].append(num_output / seconds)
            say(f"{model} {given}: {num_output / seconds:.0f} tok/s")
        results["trace"] = report(seconds, steps, num_output)
        if torch.cuda.is_available() and not os.environ.get("FAST"):
            results["kernels"] = profile(stand.engine, requests)
    name = "_".join(["mixed", model.split(":", 1)[-1].replace(":", "-"), *settings]).replace("=", "")
    Path(os.environ.get("OUT", "."), f"{name}.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
