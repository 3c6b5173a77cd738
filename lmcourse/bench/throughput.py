"""Throughput: many requests of mixed lengths, our engine together against transformers' `generate` one by one.

Both sides get the same weights, dtype, device, threads, prompts (as ids) and output lengths; both use a KV cache and
torch's scaled_dot_product_attention. What differs is batching: the engine reads the weights once for all requests of
a step, `generate` once for each token of each request.

Lesson: 2 (the first honest speed comparison)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lmcourse.bench.measure import Timing, run_engine, run_transformers, time_alternately
from lmcourse.bench.report import describe_machine, is_busy
from lmcourse.bench.workloads import GenerationRequest
from lmcourse.config import TurbomindEngineConfig

__all__ = ["ThroughputResult", "compare_throughput"]


@dataclass(frozen=True)
class ThroughputResult:
    """Both timings of the same work, and how many requests got the same tokens from both."""

    model: str
    dtype: str
    device: str
    num_requests: int
    num_prompt_tokens: int
    num_same: int
    engine: Timing
    transformers: Timing
    machine: dict[str, Any]

    @property
    def times_sooner(self) -> float:
        return self.transformers.median_seconds / self.engine.median_seconds

    def __str__(self) -> str:
        machine = self.machine["gpu"] or f"{self.machine['cpu']}, {self.machine['threads']} threads"
        rows = [("lmcourse, all together", self.engine), ("transformers, one by one", self.transformers)]
        lines = [
            f"{self.num_requests} requests, {self.num_prompt_tokens} prompt and {self.engine.num_tokens} output tokens",
            f"{self.model}, {self.dtype}, on {machine}",
            f"{'':26}{'median s':>10}{'fastest':>10}{'slowest':>10}{'output tokens/s':>18}",
        ]
        for name, timing in rows:
            lines.append(
                f"{name:26}{timing.median_seconds:10.2f}{min(timing.seconds):10.2f}{max(timing.seconds):10.2f}"
                f"{timing.tokens_per_second:18.1f}"
            )
        lines.append(
            f"{self.times_sooner:.1f} times sooner; the same tokens for {self.num_same} of {self.num_requests}"
        )
        if is_busy(self.machine):
            lines.append(
                f"others were using this machine (load {self.machine['load_average_1_minute']}): measure again"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {"benchmark": "throughput", "times_sooner": round(self.times_sooner, 2), **asdict(self)}


def compare_throughput(
    folder: Path,
    requests: Sequence[GenerationRequest],
    *,
    dtype: str,
    warmups: int = 1,
    repeats: int = 3,
) -> ThroughputResult:
    """Load `folder` on both sides and let them take turns on the same requests."""
    from lmcourse.baseline import AutoModelForCausalLM
    from lmcourse.engine import Engine
    from lmcourse.engine.settings import choose_device, choose_dtype
    from lmcourse.models import load_spec

    longest = max(len(request.prompt_ids) + request.num_output_tokens for request in requests)
    config = TurbomindEngineConfig(dtype=dtype, session_len=longest, max_batch_size=len(requests))
    machine = describe_machine()  # before the runs, which are a load themselves
    device = choose_device()
    chosen = choose_dtype(config, load_spec(folder).dtype, device)
    with Engine.from_folder(folder, config) as engine:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=chosen).to(device)
        sides = {
            "engine": lambda: run_engine(engine, requests),
            "transformers": lambda: run_transformers(model, requests),
        }
        timings, num_same = _time_sides(sides, warmups=warmups, repeats=repeats)
    return ThroughputResult(
        model=folder.name,
        dtype=str(chosen).removeprefix("torch."),
        device=str(device),
        num_requests=len(requests),
        num_prompt_tokens=sum(len(request.prompt_ids) for request in requests),
        num_same=num_same,
        engine=timings["engine"],
        transformers=timings["transformers"],
        machine=machine,
    )


def _time_sides(
    sides: Mapping[str, Callable[[], list[list[int]]]], *, warmups: int, repeats: int
) -> tuple[dict[str, Timing], int]:
    """Timings, and for how many requests all sides generated the same ids."""
    answers: dict[str, list[list[int]]] = {}

    def run(name: str) -> int:
        answers[name] = sides[name]()
        return sum(map(len, answers[name]))

    runs = {name: partial(run, name) for name in sides}
    timings = time_alternately(runs, warmups=warmups, repeats=repeats)
    same = [all(answer == row[0] for answer in row) for row in zip(*answers.values(), strict=True)]
    return timings, sum(same)
