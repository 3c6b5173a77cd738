"""Mixtures of experts on a GPU: right against float32, and decode speed of four published shapes with fewer layers.

    python benchmarks/experts_gpu.py check           kernels at real shapes, every row of the table, everything compiled
    python benchmarks/experts_gpu.py speed           decode at batch 1 and 64, with a warm Triton cache
    python benchmarks/experts_gpu.py check --rehearse      on a CPU, at small shapes
    OUT=/somewhere SECONDS_LEFT=80 python benchmarks/experts_gpu.py speed

Layers are alike, so a fraction of the limit that a few of them reach is that of all. Written to OUT/experts_MODE.json
after each step, until the time is up.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch

from lmcourse.bench.families import try_families
from lmcourse.bench.report import current_commit, describe_machine, write_json
from lmcourse.bench.speed import measure_decode
from lmcourse.bench.stand import open_stand
from lmcourse.bundled import dummy_path
from lmcourse.config import TurbomindEngineConfig
from lmcourse.kernels import Matrix, Routing
from lmcourse.kernels.moe_experts import experts_chosen, run_experts
from lmcourse.kernels.moe_route import route, route_reference
from lmcourse.spec import ExpertSpec

STARTED, LIMIT_SECONDS = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "80"))
REHEARSE = "--rehearse" in sys.argv
DEVICE = torch.device("cpu" if REHEARSE else "cuda")
QWEN = ExpertSpec(60, 4, 1408, shared_intermediate=5632, shared_gate=True)
SMALL = ExpertSpec(6, 2, 96, shared_intermediate=192, shared_gate=True)
MODE = next((word for word in sys.argv[1:] if not word.startswith("-")), "check")
SHAPES = {"qwen1_5-moe-a2_7b": 6, "mixtral-8x7b": 3, "deepseek-moe-16b": 6, "dbrx": 2}  # name → layers
RESULT: dict = {"benchmark": "experts", "commit": current_commit(), "machine": describe_machine(), "rows": []}


def seconds_left() -> float:
    return LIMIT_SECONDS - (time.perf_counter() - STARTED)


def note(what: str, value: object) -> None:
    sys.stdout.write(f"[{time.perf_counter() - STARTED:5.1f} s] {what}: {value}\n")
    sys.stdout.flush()
    RESULT["rows"].append({"what": what, "value": value})
    write_json(Path(os.environ.get("OUT", "build")) / f"experts_{MODE}.json", RESULT)


@torch.inference_mode()
def check_kernels(spec: ExpertSpec, hidden: int, dtype: torch.dtype) -> None:
    """The Triton forms against each expert by itself in float32."""
    gate_up = (torch.randn(spec.total * 2 * spec.intermediate, hidden, device=DEVICE) * hidden**-0.5).to(dtype)
    down = (torch.randn(spec.total * hidden, spec.intermediate, device=DEVICE) * spec.intermediate**-0.5).to(dtype)
    for tokens in (1, 8, 64, 1000):
        x = torch.randn(tokens, hidden, device=DEVICE).to(dtype)
        logits = torch.randn(1, tokens, spec.count + spec.shared_gate, device=DEVICE)
        routing, want_routing = route(logits, spec), route_reference(logits, spec)
        assert torch.equal(routing.experts, want_routing.experts), f"route of {tokens} tokens"
        assert torch.allclose(routing.weights, want_routing.weights, atol=1e-6)
        got = run_experts(x, Matrix(gate_up), Matrix(down), routing).float().sum(0)
        full = Matrix(gate_up.float()), Matrix(down.float())
        want = experts_chosen(x.float(), *full, Routing(routing.experts, routing.weights)).sum(0)
        note(f"experts {str(dtype)[6:]} {tokens} tokens, worst error", float((got - want).abs().max()))


def measure(name: str, layers: int, batches: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name
        shutil.copytree(dummy_path(f"dummy:{name}"), folder)
        config = json.loads((folder / "config.json").read_text())
        key = "n_layers" if "n_layers" in config else "num_hidden_layers"
        (folder / "config.json").write_text(json.dumps(config | {key: layers}))
        settings = TurbomindEngineConfig(session_len=512, max_batch_size=64, cache_max_entry_count=600)
        with open_stand(str(folder), settings) as stand:
            note(f"{name}, {layers} layers, start", stand.start_seconds)
            for batch in batches:
                if seconds_left() > 2:
                    speed = measure_decode(stand, batch=batch, output_len=65 if MODE == "speed" else 9, repeats=1)
                    note(f"{name}, {layers} layers, decode of {batch}", speed.to_json())


def check() -> None:
    for dtype in (torch.float32,) if REHEARSE else (torch.bfloat16, torch.float16):
        check_kernels(SMALL if REHEARSE else QWEN, 128 if REHEARSE else 2048, dtype)
    note("families, float32", [str(trial) for trial in try_families() if trial.ok is False] or "all rows equal")
    for name in () if REHEARSE else SHAPES:
        if seconds_left() > 8:
            measure(name, 2, (1, 64))
    if seconds_left() > 25:
        note("families, bfloat16", [str(trial) for trial in try_families(dtype="bfloat16") if trial.ok is False])


def speed() -> None:
    for name, layers in SHAPES.items():
        if seconds_left() > 4:
            measure(name, layers, (1, 64))


if __name__ == "__main__":
    {"check": check, "speed": speed}[MODE]()
