"""What a class of each size gets from one engine, as rows: simulated, on paper, and, where asked for, from the engine.

Lesson: 5 (how many students)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lmcourse.bench.capacity import ClassLoad, ClassResult, Goal, find_most_students, run_class
from lmcourse.bench.capacity_machine import VirtualMachine
from lmcourse.bench.capacity_paper import Estimate, estimate, estimate_most_students
from lmcourse.bench.capacity_steps import StepTable
from lmcourse.engine.fair_queue import EASY_PLACES, FairQueue
from lmcourse.engine.queues import FirstComeQueue, Queue

__all__ = ["HEADER", "ClassRow", "Fleet", "make_queue", "simulate_row", "size_fleet"]

_SEARCH_SECONDS = 120.0

HEADER = (
    f"{'students':>9}{'':12}{'answering':>10}{'busy':>6}{'tok/s':>9}  {'first token, s':^24}{'all at once':>13}"
    f"  {'tok/s of each':^14}{'KV pool':>8}\n"
    f"{'':46}  {'p50':>8}{'p95':>8}{'p99':>8}{'the last, s':>13}  {'p5':>7}{'p50':>7}{'most':>8}"
)


@dataclass(frozen=True)
class ClassRow:
    """One size of class: a steady class, everybody at once, and the estimate; `measured` on the engine itself."""

    simulated: ClassResult
    at_once: ClassResult
    paper: Estimate
    goal: Goal
    measured: ClassResult | None = None

    def __str__(self) -> str:
        load = self.simulated.load
        verdict = "goal kept" if self.goal.kept_by(self.simulated) else "goal missed"
        last = self.at_once.ttft(100)
        lines = [f"{load.students:9,}{'  simulated':12}{_cells(self.simulated, last)}  {verdict}"]
        if self.measured is not None:
            lines.append(f"{'':9}{'  measured':12}{_cells(self.measured, None)}")
        if load.flood:
            theirs = self.simulated.to_json()["flooded_tokens_per_second"]
            told = f"beside {load.flood} questions that one more keeps open: {theirs:,.0f} tok/s for those"
            return "\n".join([*lines, f"{'':11}{told}"])  # paper knows no flood
        paper = self.paper
        lines.append(
            f"{'':9}{'  on paper':12}{paper.answering:10.1f}{'':6}{paper.tokens_per_second:9,.0f}  {'':24}"
            f"{paper.together:13.2f}  {'':7}{paper.rate:7.0f}"
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        measured = {} if self.measured is None else {"measured": self.measured.to_json()}
        return {
            "students": self.simulated.load.students,
            "goal_kept": self.goal.kept_by(self.simulated),
            "simulated": self.simulated.to_json(),
            "at_once": self.at_once.to_json(),
            "on_paper": self.paper.to_json(),
            **measured,
        }


@dataclass(frozen=True)
class Fleet:
    """The largest class that one engine keeps the goal for, and engines for more students than that."""

    most: int
    on_paper: int
    students: tuple[int, ...]

    def engines(self, students: int) -> int | None:
        """None if not even one student is served well."""
        return -(-students // self.most) if self.most else None

    def __str__(self) -> str:
        if self.most == 0:
            return "one engine does not keep the goal for one student"
        lines = [f"one engine keeps the goal for {self.most:,} students ({self.on_paper:,} on paper)"]
        for students in self.students:
            count = self.engines(students) or 0
            lines.append(f"{students:9,} students: {count:,} engine{'s' * (count > 1)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        engines = {str(students): self.engines(students) for students in self.students}
        return {"most_students": self.most, "most_on_paper": self.on_paper, "engines": engines}


def make_queue(name: str, table: StepTable, clock: Callable[[], float] = time.monotonic) -> Queue:
    """`first`: first come, first served, as in one's own engine. `fair`: as a server with a class roster has it."""
    if name == "first":
        return FirstComeQueue()
    return FairQueue(clock, num_easy=EASY_PLACES["cuda" if table.head["machine"]["gpu"] else "cpu"])


def simulate_row(
    table: StepTable,
    load: ClassLoad,
    goal: Goal,
    measure: Callable[[ClassLoad], ClassResult] | None = None,
    *,
    queue: str = "first",
) -> ClassRow:
    """`measure` runs the same class on an engine."""
    at_once = replace(load, start="together", seconds=1e-6)  # one question each
    return ClassRow(
        simulated=_simulate(table, load, queue),
        at_once=_simulate(table, at_once, queue),
        paper=estimate(table, load),
        goal=goal,
        measured=None if measure is None else measure(load),
    )


def size_fleet(
    table: StepTable, load: ClassLoad, goal: Goal, students: Sequence[int], *, queue: str = "first"
) -> Fleet:
    """From the arithmetic's answer a few simulations away, of two minutes at most."""
    on_paper = estimate_most_students(table, load, goal)
    short = replace(load, seconds=min(load.seconds, _SEARCH_SECONDS))
    most = find_most_students(
        lambda count: _simulate(table, replace(short, students=count), queue), goal, guess=on_paper
    )
    return Fleet(most, on_paper, tuple(students))


def _simulate(table: StepTable, load: ClassLoad, queue: str) -> ClassResult:
    return run_class(load, VirtualMachine(table, queue=partial(make_queue, queue, table)))


def _cells(result: ClassResult, last: float | None) -> str:
    """A server does not tell how busy it is, nor of its blocks."""
    use = result.use
    ttft = "".join(f"{result.ttft(share):8.3f}" for share in (50, 95, 99))
    busy, pool = (
        (f"{result.busy:6.0%}", f"{use.peak_blocks / use.num_blocks:8.1%}") if use.num_blocks else (" " * 6, "")
    )
    told = "" if last is None else f"{last:.2f}"
    marks = " *" if result.outside else ""
    if use.num_preemptions:
        marks += f" ({use.num_preemptions} preempted)"
    return (
        f"{result.mean_waiting:10.1f}{busy}{result.tokens_per_second:9,.0f}  {ttft}{told:>13}"
        f"  {result.rate(5):7.0f}{result.rate(50):7.0f}{pool}{marks}"
    )
