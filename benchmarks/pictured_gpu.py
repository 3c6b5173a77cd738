"""Families that see, one published size each, on one GPU: a picture's first token, and how fast tokens follow.

    python benchmarks/pictured_gpu.py internlm-xcomposer-7b internlm-xcomposer2-vl-7b
    SECONDS_LEFT=25 …                                    models that do not begin by then are left out
    DEVICE=cpu MODEL_CHANGES='{"num_hidden_layers": 1}' …    a rehearsal without a GPU

Weights are drawn, in bfloat16. First token: one request of a new picture and 32 tokens, from add() to its first output;
median of five. Decode: one request, 128 tokens of prompt, against accounting's limit at the copy bandwidth measured
here. Results go to $OUT/pictured.json after each model.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from lmcourse.engine import Engine

STARTED, LIMIT = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
DEVICE = os.environ.get("DEVICE", "cuda")


def say(line: str) -> None:
    sys.stdout.write(f"{time.perf_counter() - STARTED:6.1f} s  {line}\n")
    sys.stdout.flush()


def shape_folder(name: str) -> Path:
    """The dummy model, with changes to its config if there are any."""
    from lmcourse.bundled import dummy_path

    source = dummy_path(f"dummy:{name}")
    assert source is not None, name
    folder = Path(tempfile.mkdtemp()) / name
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text()) | json.loads(os.environ.get("MODEL_CHANGES", "{}"))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def open_engine(name: str) -> Engine:
    from lmcourse.config import TurbomindEngineConfig
    from lmcourse.engine import Engine

    config = TurbomindEngineConfig(cache_max_entry_count=60, dtype="bfloat16", max_batch_size=4, session_len=2048)
    return Engine.from_folder(shape_folder(name), config, device=DEVICE)


def first_token_seconds(engine: Engine, seed: int) -> float:
    """Of a picture that nobody has seen, made ready before the clock starts."""
    import numpy as np

    from lmcourse.config import GenerationConfig
    from lmcourse.text.pictures import PicturedIds, Piece

    assert engine.encoder is not None
    rng = np.random.default_rng(seed)
    picture = engine.encoder.prepare(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8))
    ids = rng.integers(300, 1000, 33).tolist()
    prompt = PicturedIds(
        [*ids[:1], *[engine.encoder.placeholder_id] * picture.num_tokens, *ids[1:]], [Piece(1, picture)]
    )
    started = time.perf_counter()
    engine.add(prompt, GenerationConfig(max_new_tokens=1, ignore_eos=True))
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def decode_run_seconds(engine: Engine, num_outputs: int, seed: int) -> float:
    from lmcourse.bench.measure import run_engine
    from lmcourse.bench.workloads import mixed_requests

    lens = {"prompt_lens": (128, 128), "output_lens": (num_outputs, num_outputs)}
    requests = mixed_requests(1, vocab=engine.spec.vocab, seed=seed, **lens)
    started = time.perf_counter()
    run_engine(engine, requests)
    return time.perf_counter() - started


def measure(name: str, bandwidth: float) -> dict[str, Any]:
    from lmcourse.accounting import Device, decode_seconds
    from lmcourse.bench.speed import engine_storage

    with open_engine(name) as engine:
        say(f"{name} is loaded")
        decode_run_seconds(engine, 12, 0)
        firsts = [first_token_seconds(engine, seed) for seed in range(8)][3:]
        rates = [
            64 / (decode_run_seconds(engine, 65, seed) - decode_run_seconds(engine, 1, seed)) for seed in (1, 2, 3)
        ]
        limit = 1 / decode_seconds(
            engine.spec, Device(bandwidth, 1e15), context=128 + 32, storage=engine_storage(engine, 2)
        )
        rate = statistics.median(rates)
        assert engine.encoder is not None
        return {
            "first_token_ms": round(1e3 * statistics.median(firsts), 2),
            "tokens_per_second": round(rate, 1),
            "limit": round(limit, 1),
            "fraction": round(rate / limit, 3),
            "layers": engine.spec.num_layers,
            "weight_gb": round(engine.stats().weight_bytes / 1e9, 2),
            "encoder_gb": round(engine.encoder.num_bytes / 1e9, 2),
        }


def main(names: list[str]) -> None:
    import torch

    from lmcourse.bench.device import measure_limits
    from lmcourse.bench.report import current_commit, describe_machine

    limits = measure_limits(torch.device(DEVICE), torch.bfloat16, repeats=5)
    results: dict[str, Any] = {"machine": describe_machine(), "commit": current_commit(), "models": {}}
    results["copy_tb_s"] = limits.copy / 1e12
    for name in names:
        if time.perf_counter() - STARTED > LIMIT - 8:
            say(f"no time for {name}")
            continue
        results["models"][name] = row = measure(name, limits.copy)
        say(f"{name}: {json.dumps(row)}")
        (Path(os.environ.get("OUT", ".")) / "pictured.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
