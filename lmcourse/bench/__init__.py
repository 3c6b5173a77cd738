"""Measuring: what is run (workloads), how it is timed (measure), what is compared (throughput) and told (report).

name                                             file
GenerationRequest, mixed_requests                workloads.py: requests as token ids, seeded
Timing, time_runs, time_alternately, run_*       measure.py: medians and spreads of repeated runs
compare_throughput, ThroughputResult             throughput.py: our engine against transformers' generate
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
from lmcourse.bench.report import describe_machine, write_json
from lmcourse.bench.throughput import ThroughputResult, compare_throughput
from lmcourse.bench.workloads import GenerationRequest, mixed_requests

__all__ = [
    "GenerationRequest",
    "ThroughputResult",
    "Timing",
    "compare_throughput",
    "describe_machine",
    "mixed_requests",
    "run_engine",
    "run_pipeline",
    "run_transformers",
    "time_alternately",
    "time_runs",
    "write_json",
]
