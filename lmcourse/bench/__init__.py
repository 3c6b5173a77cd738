"""Measuring: what is run (workloads), how it is timed (measure), what is compared (throughput) and told (report).

name                                             file
GenerationRequest, mixed_requests                workloads.py: requests as token ids, seeded
Timing, time_runs, time_alternately, run_*       measure.py: medians and spreads of repeated runs
compare_throughput, ThroughputResult             throughput.py: our engine against transformers' generate
answer_prompts, compare_with_transformers        parity.py: the engine's tokens against transformers', one by one
parity_prompts, parity_prompt_ids                prompts.py: fifty prompts for that
describe_machine, write_json                     report.py: hardware and versions, results as JSON
"""

from lmcourse.bench.measure import (
    Timing,
    run_engine,
    run_pipeline,
    run_transformers,
    time_alternately,
    time_runs,
)
from lmcourse.bench.parity import TOLERANCES, EngineAnswer, Parity, answer_prompts, compare_with_transformers
from lmcourse.bench.prompts import parity_prompt_ids, parity_prompts
from lmcourse.bench.report import describe_machine, write_json
from lmcourse.bench.throughput import ThroughputResult, compare_throughput
from lmcourse.bench.workloads import GenerationRequest, mixed_requests

__all__ = [
    "TOLERANCES",
    "EngineAnswer",
    "GenerationRequest",
    "Parity",
    "ThroughputResult",
    "Timing",
    "answer_prompts",
    "compare_throughput",
    "compare_with_transformers",
    "describe_machine",
    "mixed_requests",
    "parity_prompt_ids",
    "parity_prompts",
    "run_engine",
    "run_pipeline",
    "run_transformers",
    "time_alternately",
    "time_runs",
    "write_json",
]
