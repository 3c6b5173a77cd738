"""Measuring: what is run (workloads), how it is timed (measure), what is compared (throughput) and told (report).

name                                             file
GenerationRequest, mixed_requests                workloads.py: requests as token ids, seeded
Timing, time_runs, time_alternately, run_*       measure.py: medians and spreads of repeated runs
Contestant, Standing, hold_contest               contest.py: programs in turns on equal work, by token times
Peer, find_peers, serve_peer                     peers.py: other engines' servers beside ours
Limits, measure_limits, seconds_of               device.py: what the device can do at best
Stand, open_stand                                stand.py: an engine with limits and start-up times
Speed, measure_decode, _prefill, _serving        speed.py: an engine's speed beside the limit
StepProfile, profile_decode                      kernel_table.py: the kernels of a step
KernelCase, kernel_cases, measure_kernel         kernels.py: single operations, kernel_inputs.py, cold.py
load_hf, measure_hf_decode                       hf_decode.py: transformers, eager and compiled
measure_memory, MemoryUse                        memory.py: what takes how much
measure_ladder                                   ladder.py: the lesson's rungs, and the one of 4-bit weights
measure_startup                                  startup.py: from process start to first answer
compare_throughput, ThroughputResult             throughput.py: our engine against transformers' generate
answer_prompts, compare_with_transformers        parity.py: the engine's tokens against transformers', one by one
parity_prompts, parity_prompt_ids                prompts.py: fifty prompts for that
describe_machine, current_commit, write_json     report.py: hardware and versions, results as JSON
run_served_class                                 capacity_served.py: the same students, over HTTP
StepTable, read_tables, pick_table               capacity_steps.py: how long a step takes, measured
Grid, measure_steps                              capacity_measure.py: measuring that
VirtualMachine, EngineMachine                    capacity_machine.py: the scheduler with a clock; the engine
ClassLoad, run_class, find_most_students         capacity.py: students who ask, read and think
append_to_ledger, read_ledger, format_ledger     ledger.py: results that count, beside others'
"""

from lmcourse.bench.capacity import ClassLoad, ClassResult, Goal, find_most_students, run_class
from lmcourse.bench.capacity_machine import EngineMachine, VirtualMachine
from lmcourse.bench.capacity_measure import Grid, measure_steps
from lmcourse.bench.capacity_served import run_served_class
from lmcourse.bench.capacity_steps import StepTable, pick_table, read_tables
from lmcourse.bench.contest import (
    Contestant,
    Standing,
    engine_contestant,
    equal_requests,
    format_standings,
    hold_contest,
    transformers_contestant,
)
from lmcourse.bench.device import Limits, measure_limits, seconds_of
from lmcourse.bench.hf_decode import load_hf, measure_hf_decode
from lmcourse.bench.kernel_table import StepProfile, profile_decode
from lmcourse.bench.ladder import format_ladder, measure_ladder
from lmcourse.bench.ledger import append_to_ledger, format_ledger, read_ledger, read_peers
from lmcourse.bench.measure import (
    Timing,
    run_engine,
    run_pipeline,
    run_transformers,
    time_alternately,
    time_runs,
)
from lmcourse.bench.memory import MemoryPart, MemoryUse, measure_memory
from lmcourse.bench.parity import TOLERANCES, EngineAnswer, Parity, answer_prompts, compare_with_transformers
from lmcourse.bench.peers import Peer, find_peers, serve_peer
from lmcourse.bench.prompts import parity_prompt_ids, parity_prompts
from lmcourse.bench.report import check_writable, current_commit, describe_machine, write_json
from lmcourse.bench.speed import Speed, measure_decode, measure_prefill, measure_serving
from lmcourse.bench.stand import Stand, open_stand
from lmcourse.bench.startup import measure_startup
from lmcourse.bench.throughput import ThroughputResult, compare_throughput
from lmcourse.bench.workloads import GenerationRequest, mixed_requests

__all__ = [
    "TOLERANCES",
    "ClassLoad",
    "ClassResult",
    "Contestant",
    "EngineAnswer",
    "EngineMachine",
    "GenerationRequest",
    "Goal",
    "Grid",
    "Limits",
    "MemoryPart",
    "MemoryUse",
    "Parity",
    "Peer",
    "Speed",
    "Stand",
    "Standing",
    "StepProfile",
    "StepTable",
    "ThroughputResult",
    "Timing",
    "VirtualMachine",
    "answer_prompts",
    "append_to_ledger",
    "check_writable",
    "compare_throughput",
    "compare_with_transformers",
    "current_commit",
    "describe_machine",
    "engine_contestant",
    "equal_requests",
    "find_most_students",
    "find_peers",
    "format_ladder",
    "format_ledger",
    "format_standings",
    "hold_contest",
    "load_hf",
    "measure_decode",
    "measure_hf_decode",
    "measure_ladder",
    "measure_limits",
    "measure_memory",
    "measure_prefill",
    "measure_serving",
    "measure_startup",
    "measure_steps",
    "mixed_requests",
    "open_stand",
    "parity_prompt_ids",
    "parity_prompts",
    "pick_table",
    "profile_decode",
    "read_ledger",
    "read_peers",
    "read_tables",
    "run_class",
    "run_engine",
    "run_pipeline",
    "run_served_class",
    "run_transformers",
    "seconds_of",
    "serve_peer",
    "time_alternately",
    "time_runs",
    "transformers_contestant",
    "write_json",
]
