"""auto_awq on a GPU: how long real shapes take, and what tiny-chat loses, in float16 with a thousand chats a task.

    python benchmarks/quantise_gpu.py time          → quantise_h200.json: seconds a layer; mixtures with fewer layers
    python benchmarks/quantise_gpu.py accuracy      → w4_accuracy_h200.json: every method with 4 bits and with 3
    python benchmarks/quantise_gpu.py time --rehearse         on a CPU, tiny-chat and a handful of tokens
    OUT=/somewhere SECONDS_LEFT=150 python benchmarks/quantise_gpu.py accuracy

Each is written to OUT (default: here) after every step, and nothing is begun once the time is up. What a method loses
is told chat by chat: the same thousand chats before and after, so that what either gets wrong anyway does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from lmcourse import GenerationConfig, TurbomindEngineConfig, model_path, pipeline
from lmcourse.bench.report import current_commit, describe_machine, write_json
from lmcourse.bundled import dummy_path
from lmcourse.lite import METHODS, AwqJob, Method, auto_awq, perplexity
from lmcourse.zoo.calibration import held_out_answers
from lmcourse.zoo.evaluate import evaluate_marks
from lmcourse.zoo.tasks import TASKS

STARTED, LIMIT_SECONDS = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "600"))
OUT = Path(os.environ.get("OUT", Path(__file__).parent))
MIXTURES = {"qwen1_5-moe-a2_7b": 2, "mixtral-8x7b": 1, "dbrx": 1}  # name → layers; of widths that 128 divides
WAYS: dict[str, tuple[Method, int]] = {
    f"{name}, {bits} bits": (method, bits)
    for bits in (4, 3)
    for name, method in {
        "search": METHODS["search"], "smooth": METHODS["smooth"], "rtn": METHODS["rtn"],
        "search alone": METHODS["search"].plain(), "smooth alone": METHODS["smooth"].plain(),
    }.items()
}  # fmt: skip


def seconds_left() -> float:
    return LIMIT_SECONDS - (time.perf_counter() - STARTED)


def say(line: str) -> None:
    sys.stdout.write(f"[{time.perf_counter() - STARTED:5.1f} s] {line}\n")
    sys.stdout.flush()


def shape(name: str) -> Path:
    """The folder of a dummy: model."""
    folder = dummy_path(f"dummy:{name}")
    assert folder is not None, name
    return folder


def with_layers(source: Path, place: Path, layers: int | None) -> Path:
    """A copy of a model folder; None: with all its layers."""
    folder = place / "source"
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    key = "n_layers" if "n_layers" in config else "num_hidden_layers"
    (folder / "config.json").write_text(json.dumps(config | ({key: layers} if layers else {})), "utf-8")
    return folder


def timed(source: Path, job: AwqJob, layers: int | None = None, *, answer: bool = False) -> dict[str, Any]:
    """Seconds a layer, peak of memory, and whether what was made answers."""
    with tempfile.TemporaryDirectory() as place:
        folder, marks = with_layers(source, Path(place), layers), [time.perf_counter()]
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        result = auto_awq(folder, Path(place) / "small", job, watch=lambda *_: marks.append(time.perf_counter()))
        found: dict[str, Any] = {
            "samples": job.calib_samples, "seqlen": job.calib_seqlen, "seconds": round(result.seconds, 1),
            "seconds of each layer": [round(b - a, 2) for a, b in pairwise(marks)],
            "source_mib": result.source_bytes >> 20, "stored_mib": result.stored_bytes >> 20,
        }  # fmt: skip
        if torch.cuda.is_available():
            found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        if answer:
            config = TurbomindEngineConfig(session_len=512, max_batch_size=8, cache_max_entry_count=64)
            with pipeline(str(result.folder), backend_config=config) as pipe:
                found["answered tokens"] = pipe("hello", max_new_tokens=8, ignore_eos=True).generate_token_len
        return found


def time_shapes(*, rehearse: bool) -> None:
    result: dict[str, Any] = {"benchmark": "auto_awq", "commit": current_commit(), "machine": describe_machine()}
    big = model_path("tiny-chat") if rehearse else shape("internlm2-1_8b")
    small_job = AwqJob(calib_samples=4, calib_seqlen=64) if rehearse else AwqJob(calib_samples=32, calib_seqlen=512)
    timed(big, small_job, 1)  # compiles
    rows: list[tuple[str, Path, AwqJob, int | None]] = [
        (big.name, big, small_job if rehearse else AwqJob(calib_samples=128, calib_seqlen=1024), None)
    ]
    if not rehearse:
        rows.extend((name, shape(name), small_job, count) for name, count in MIXTURES.items())
    for name, source, job, layers in rows:
        if seconds_left() > 15:
            label = f"{name}, {layers or 'all'} layers"
            result[label] = timed(source, job, layers, answer=layers is not None)
            say(f"{label}: {result[label]}")
            write_json(OUT / "quantise_h200.json", result)


def solved(folder: Path, chats: int) -> tuple[dict[str, list[bool]], float]:
    """Which chats of each task come out right; perplexity on 512 unseen dialogues."""
    tokenizer = model_path("tiny-chat") / "tokenizer.json"
    tokens, judged = held_out_answers(tokenizer, samples=512, seqlen=160, seed=20261122)
    surprise = perplexity(folder, tokens, judged)
    config = TurbomindEngineConfig(max_batch_size=256, cache_max_entry_count=0.1)
    with pipeline(str(folder), backend_config=config) as pipe:

        def generate(asked: list[list[dict[str, str]]]) -> list[str]:
            return [answer.text for answer in pipe(asked, gen_config=GenerationConfig(max_new_tokens=160))]

        return {task: evaluate_marks(generate, chats, task) for task in TASKS}, surprise


def compared(marks: Sequence[bool], exact: Sequence[bool]) -> dict[str, float]:
    """Share solved; points more or less than as computed, and the half width of the interval of 95 % of that."""
    change = torch.tensor([int(mine) - int(theirs) for mine, theirs in zip(marks, exact, strict=True)]).double()
    half = 1.96 * float(change.std()) / len(change) ** 0.5 if len(change) > 1 else 0.0
    return {"solved": sum(marks) / len(marks), "points": round(100 * float(change.mean()), 2),
            "within": round(100 * half, 2)}  # fmt: skip


def write_accuracy(columns: Mapping[str, tuple[Mapping[str, list[bool]], float]], head: Mapping[str, Any]) -> None:
    exact = columns["as computed"][0]
    tasks = {
        task: {"instances": len(marks)} | {name: compared(found[task], marks) for name, (found, _) in columns.items()}
        for task, marks in exact.items()
    }
    surprises = {name: round(value, 6) for name, (_, value) in columns.items()}
    write_json(OUT / "w4_accuracy_h200.json", {**head, "tasks": tasks, "perplexity": surprises})


def accuracy(chats: int, job: AwqJob) -> None:
    head = {
        "benchmark": "w4 accuracy", "model": "tiny-chat", "dtype": "float16", "commit": current_commit(),
        "machine": describe_machine(), "calibration": f"{job.calib_samples} x {job.calib_seqlen}", "group_size": 128,
    }  # fmt: skip
    columns = {"as computed": solved(model_path("tiny-chat"), chats)}
    write_accuracy(columns, head)
    with tempfile.TemporaryDirectory() as place:
        for name, (method, bits) in WAYS.items():
            if seconds_left() < 20:
                say(f"no time left for {name}")
                continue
            wanted = AwqJob(job.calib_dataset, job.calib_samples, job.calib_seqlen, method=method, grid_bits=bits)
            columns[name] = solved(auto_awq(model_path("tiny-chat"), Path(place) / name, wanted).folder, chats)
            say(f"{name}: " + ", ".join(f"{task} {sum(marks) / chats:.3f}" for task, marks in columns[name][0].items()))
            write_accuracy(columns, head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("time", "accuracy"))
    parser.add_argument("--instances", type=int, default=1000, help="chats a task")
    parser.add_argument("--rehearse", action="store_true", help="small, wherever it runs")
    args = parser.parse_args()
    if args.mode == "time":
        time_shapes(rehearse=args.rehearse)
    else:
        small = AwqJob(calib_samples=4, calib_seqlen=64)
        accuracy(3 if args.rehearse else args.instances,
                 small if args.rehearse else AwqJob(calib_samples=128, calib_seqlen=1024))  # fmt: skip


if __name__ == "__main__":
    main()
