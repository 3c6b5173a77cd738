"""`lmcourse bench steps | capacity`: how long a step takes; how many students that is enough for.

Lesson: 5 (how many students)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcourse.cli.bench_flags import add_kind, bench_config, bench_model, keep_result, whole_number

if TYPE_CHECKING:
    from lmcourse.bench import ClassLoad, ClassResult, Goal, Grid, Stand, StepTable

__all__ = ["add_kinds", "run_capacity", "run_steps"]

_STEPS_EXAMPLES = """examples:
  lmcourse bench steps --out steps.json                              the course's model on this machine
  lmcourse bench steps dummy:internlm2-1_8b --max-batch-size 256 --out steps.json
  lmcourse bench capacity --steps steps.json --students 30
"""
_CAPACITY_EXAMPLES = """examples:
  lmcourse bench capacity --students 8 30                            steps measured here and now, on this machine
  lmcourse bench capacity dummy:internlm2-1_8b --steps benchmarks/steps_h200.json --students 30 300 --largest
  lmcourse bench capacity --students 8 --think 2 --minutes 0.5 --check      and the engine itself, in real time
  lmcourse bench capacity --steps steps.json --students 30 --minutes 2 --server http://SERVER:23333 --api-key KEY
"""


def add_kinds(kinds: Any) -> None:
    """Adds steps and capacity."""
    parser = add_kind(
        kinds, "steps", help="milliseconds of a step by requests, context and prompt: what `capacity` simulates with",
        description="Time the engine's steps in their own rhythm: decodes by how many they are and how long their "
        "contexts, prompts by their tokens, and both at once.",
        examples=_STEPS_EXAMPLES,
    )  # fmt: skip
    _add_grid(parser)
    parser.set_defaults(func=run_steps)
    parser = add_kind(
        kinds, "capacity", help="how many students one engine is enough for, simulated on measured step times",
        description="Simulate a class on the engine's own scheduler: each student thinks, asks, reads the answer as it "
        "comes, and thinks again. Thinking takes an exponential time; prompts and answers are drawn evenly from half "
        "their mean to one and a half of it. Columns: students being answered on average, the machine's busy share, "
        "output tokens per second, seconds to the first token, the same for the last when everybody asks at once, "
        "tokens per second that each answer comes with.",
        examples=_CAPACITY_EXAMPLES,
    )  # fmt: skip
    _add_class(parser)
    _add_grid(parser)
    parser.set_defaults(func=run_capacity)


def _add_grid(parser: argparse.ArgumentParser) -> None:
    whole, group = whole_number, parser.add_argument_group("steps that are timed")
    group.add_argument("--batch", type=whole, nargs="+", metavar="N",
                       help="requests that decode together (default: 1 2 4 … 128 on CUDA, … 32 on a CPU)")  # fmt: skip
    group.add_argument("--context", type=whole, nargs=2, metavar=("SHORT", "LONG"), default=(128, 700),
                       help="tokens of each of them (default: 128 700)")  # fmt: skip
    group.add_argument("--prompt-tokens", type=whole, nargs="+", metavar="N",
                       help="of a step's prompts (default: 16 … 4096 on CUDA, … 1024 on a CPU)")  # fmt: skip


def _add_class(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("class").add_argument
    add("--students", type=whole_number, nargs="+", default=[1, 30], metavar="N", help="one row each (default: 1 30)")
    add("--think", type=float, default=30.0, metavar="SECONDS",
        help="between an answer's end and the next question, mean (default: 30)")  # fmt: skip
    add("--prompt", type=whole_number, default=300, metavar="TOKENS", help="of a question, mean (default: 300)")
    add("--answer", type=whole_number, default=200, metavar="TOKENS", help="of an answer, mean (default: 200)")
    add("--minutes", type=float, default=5.0, metavar="N", help="that are simulated (default: 5)")
    add("--goal", type=float, nargs=2, default=(1.0, 15.0), metavar=("SECONDS", "RATE"),
        help="first token within so long for 95 %% of the questions, so many tokens/s or more for 95 %% of the answers "
        "(default: 1 15)")  # fmt: skip
    add("--paper", action="store_true", help="print the arithmetic with its numbers (default: off)")
    add("--largest", action="store_true", help="find the largest class that keeps the goal (default: off)")
    add("--fleet", type=whole_number, nargs="+", default=[], metavar="N",
        help="with --largest: how many such engines for so many students (default: none)")  # fmt: skip
    add("--flood", type=int, default=0, metavar="N",
        help="one more student keeps so many questions open all the time (default: 0)")  # fmt: skip
    add("--queue", choices=("first", "fair"), default="first",
        help="first come, first served, or as a server with a class roster shares (default: first)")  # fmt: skip
    add("--seed", type=int, default=0, help="of times and lengths (default: 0)")
    add("--steps", type=Path, metavar="FILE",
        help="measured step times; MODEL and --quant-policy say which (default: measured here and now)")  # fmt: skip
    add("--places", type=whole_number, metavar="N",
        help="with --steps: answers at the same time, as --max-batch-size (default: as measured)")  # fmt: skip
    add("--check", action="store_true",
        help="run each class on the engine, too, in real time; without --steps (default: off)")  # fmt: skip
    add("--server", metavar="URL", help="run each class on this server, too, in real time (default: none)")
    add("--api-key", metavar="KEY", help="that the server asks for (default: none)")


def run_steps(args: argparse.Namespace) -> int:
    with _measured(args) as (stand, table):
        print(f"{stand}\n{_tell_table(table)}")
        keep_result(args, table.to_json())
    return 0


def run_capacity(args: argparse.Namespace) -> int:
    from lmcourse.bench import ClassLoad, Goal, pick_table, read_tables
    from lmcourse.errors import ConfigError

    goal = Goal(*args.goal)
    lens = {name: getattr(args, name) for name in ("think", "prompt", "answer", "seed", "flood")}
    load = ClassLoad(args.students[0], seconds=60 * args.minutes, start="spread", **lens)
    if args.fleet and not args.largest:
        raise ConfigError("--fleet divides by the largest class", expected="--largest", where="--fleet")
    if args.check and (args.steps or args.server):
        raise ConfigError("--check asks the engine whose steps are timed here", expected="no --steps, no --server")
    if args.steps is not None:
        table = pick_table(read_tables(args.steps), args.model, args.quant_policy)
        return _simulate(args, replace(table, max_running=args.places or table.max_running), load, goal)
    if args.places:
        raise ConfigError("--places changes a file's engine", expected="--max-batch-size", where="--places")
    with _measured(args, longest=load.longest) as (stand, table):
        return _simulate(args, table, load, goal, stand)


def _simulate(
    args: argparse.Namespace, table: StepTable, load: ClassLoad, goal: Goal, stand: Stand | None = None
) -> int:
    from lmcourse.bench.capacity_paper import explain, explain_full
    from lmcourse.bench.capacity_report import HEADER, simulate_row, size_fleet

    print(f"{_tell_setting(table)}\n{_tell_load(load, goal)}\n\n{HEADER}", flush=True)
    rows, measure = [], _chosen_check(args, table, stand)
    for students in args.students:
        rows.append(simulate_row(table, replace(load, students=students), goal, measure, queue=args.queue))
        print(rows[-1], flush=True)
    outside = max(row.simulated.outside for row in rows)
    if outside:
        print(
            f"* at most {outside:.1%} of the steps lie beyond what was measured; the last straight line goes on there"
        )
    if args.paper:
        told = [explain(table, row.simulated.load) for row in rows]
        print("", *told, explain_full(table, load), sep="\n")
    result = {
        "benchmark": "capacity",
        "model": table.head["model"],
        "queue": args.queue,
        "goal": {"ttft": goal.ttft, "rate": goal.rate},
    }
    result |= {"steps": table.to_json(), "rows": [row.to_json() for row in rows]}
    if args.largest:
        fleet = size_fleet(table, load, goal, args.fleet, queue=args.queue)
        print(f"\n{fleet}")
        result |= fleet.to_json()
    keep_result(args, result)
    return 0


@contextmanager
def _measured(args: argparse.Namespace, longest: int = 0) -> Iterator[tuple[Stand, StepTable]]:
    """A stand with its table; sessions long enough for both the grid and the class."""
    from lmcourse.bench import measure_steps, open_stand

    grid = _grid(args)
    config = bench_config(args, longest=max(longest, grid.longest), batch=grid.most_requests)
    with open_stand(bench_model(args), config) as stand:
        yield stand, measure_steps(stand, grid)


def _grid(args: argparse.Namespace) -> Grid:
    import torch

    from lmcourse.bench import Grid

    on_cuda = torch.cuda.is_available()
    batches = args.batch or ((1, 2, 4, 8, 16, 32, 64, 128) if on_cuda else (1, 2, 4, 8, 16, 32))
    lengths = args.prompt_tokens or ((16, 64, 128, 256, 512, 1024, 2048, 4096) if on_cuda else (16, 64, 256, 1024))
    decodes = tuple((batch, context) for batch in batches for context in args.context)
    together = max(lengths)
    prompts = tuple((1, length) for length in lengths)
    if together >= 512:
        prompts += ((together // 256, 256),)
    mixed = tuple((max(1, max(batches) // 2), args.context[0], length) for length in sorted(lengths)[-3:-1])
    return Grid(decodes, prompts, mixed)


def _chosen_check(
    args: argparse.Namespace, table: StepTable, stand: Stand | None
) -> Callable[[ClassLoad], ClassResult] | None:
    """What runs a class in real time beside the simulation."""
    from lmcourse.bench import EngineMachine, run_class, run_served_class
    from lmcourse.bench.capacity_report import make_queue

    if args.server:
        return lambda load: run_served_class(load, args.server, api_key=args.api_key)
    if args.check and stand is not None:
        return lambda load: run_class(load, EngineMachine(stand.engine, queue=make_queue(args.queue, table)))
    return None


def _tell_table(table: StepTable) -> str:
    lines = ["", "a step of so many requests with so many cached tokens each, ms"]
    lines += [f"{point.batch:9} {point.context:9} {point.ms:10.3f}" for point in sorted(table.decode)]
    lines += ["", "so many prompts of so many tokens, ms"]
    lines += [f"{point.prompts:9} {point.each:9} {point.ms:10.3f}" for point in table.prompts]
    lines += ["", f"both at once save {table.saved_ms:.2f} ms"]
    return "\n".join(lines)


def _tell_setting(table: StepTable) -> str:
    head, machine = table.head, table.head["machine"]
    when = f"steps of {machine.get('date')}, {head.get('commit')}, torch {machine.get('torch')}"
    limits = f"at most {table.max_running} at once, KV cache for {table.kv_tokens:,} tokens"
    return f"{table.name}, {head.get('dtype')}, on {table.place}; {when}\n{limits}"


def _tell_load(load: ClassLoad, goal: Goal) -> str:
    return (
        f"{load.think:g} s of thought, {load.prompt} tokens of prompt, {load.answer} of answer, "
        f"{load.seconds / 60:g} minutes, seed {load.seed}\n"
        f"goal: first token within {goal.ttft:g} s (p95), {goal.rate:g} tokens/s or more (p5)"
    )
