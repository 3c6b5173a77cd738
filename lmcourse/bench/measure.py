"""How a benchmark measures: warm up, repeat, take the median, show the spread; two sides take turns.

Taking turns (A B A B …) lets a machine that slows down meanwhile, or is shared, slow both. A run is a function without
arguments that does all its work and returns how many tokens it generated; it ends with ids on the host, so that work
queued on a GPU is inside the time.

Lesson: 2 (the first honest speed comparison)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmcourse.bench.workloads import GenerationRequest
from lmcourse.config import GenerationConfig

if TYPE_CHECKING:
    from lmcourse.engine import Engine

__all__ = [
    "Run",
    "Timing",
    "run_engine",
    "run_pipeline",
    "run_transformers",
    "time_alternately",
    "time_runs",
    "work_off",
]

Run = Callable[[], int]


@dataclass(frozen=True)
class Timing:
    """Repeated runs of the same work: `num_tokens` generated in each of them, in these times."""

    num_tokens: int
    seconds: tuple[float, ...]

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens over the median time."""
        return self.num_tokens / self.median_seconds

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median: how far single runs may be trusted."""
        return (max(self.seconds) - min(self.seconds)) / self.median_seconds

    def __repr__(self) -> str:
        return (
            f"Timing({self.tokens_per_second:.1f} tokens/s: {self.num_tokens} tokens in {self.median_seconds:.3f} s, "
            f"median of {len(self.seconds)}, spread {self.spread:.0%})"
        )


def time_alternately(runs: Mapping[str, Run], *, warmups: int = 1, repeats: int = 5) -> dict[str, Timing]:
    """Every run's timing; they take turns. All runs of one side must generate equally many tokens."""
    for _ in range(warmups):
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    counts: dict[str, set[int]] = {name: set() for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            counts[name].add(run())
            seconds[name].append(time.perf_counter() - started)
    for name, found in counts.items():
        if len(found) != 1:
            raise ValueError(f"{name}: runs of different length cannot be compared: {sorted(found)} tokens")
    return {name: Timing(counts[name].pop(), tuple(seconds[name])) for name in runs}


def time_runs(run: Run, *, warmups: int = 1, repeats: int = 5) -> Timing:
    """One side alone."""
    return time_alternately({"run": run}, warmups=warmups, repeats=repeats)["run"]


def run_engine(engine: Engine, requests: Sequence[GenerationRequest]) -> list[list[int]]:
    """The generated ids of all requests, which the engine works on together."""
    answers: list[list[int]] = [[] for _ in requests]
    work_off(engine, requests, lambda index, token_ids: answers[index].extend(token_ids))
    return answers


def work_off(engine: Engine, requests: Sequence[GenerationRequest], take: Callable[[int, list[int]], None]) -> None:
    """All requests together; `take` gets a request's index and its new ids as they come.

    If it is left early (a notebook's stop button) nothing goes on: the next run finds the engine idle.
    """
    indices: dict[int, int] = {}  # by request id
    try:
        for index, request in enumerate(requests):
            gen = GenerationConfig(max_new_tokens=request.num_output_tokens, ignore_eos=True)
            indices[engine.add(list(request.prompt_ids), gen)] = index
        while engine.has_work:
            for output in engine.step():
                take(indices[output.request_id], output.token_ids)
    except BaseException:
        for request_id in {*indices, *engine.unfinished()}:
            engine.abort(request_id)
        raise


def run_transformers(model: Any, requests: Sequence[GenerationRequest]) -> list[list[int]]:
    """The generated ids of all requests by transformers' `generate`, one after the other, with its KV cache."""
    from lmcourse.baseline import generate_ids

    return [generate_ids(model, request.prompt_ids, request.num_output_tokens) for request in requests]


def run_pipeline(pipe: Any, requests: Sequence[GenerationRequest]) -> list[list[int]]:
    """The generated ids of all requests through `pipeline()`, as one batch."""
    prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
    gens = [GenerationConfig(max_new_tokens=request.num_output_tokens, ignore_eos=True) for request in requests]
    return [response.token_ids for response in pipe(prompts, gen_config=gens)]
