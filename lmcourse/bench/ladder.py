"""The lesson's ladder of memory: cache_max_entry_count 0.8, 0.5 and 0.01, and a fourth rung with 4-bit weights.

cache_max_entry_count is a share of what the weights leave. So the totals of a ladder lie on a line:
total = rest + share · free. The lesson's own three figures do not, and `fit_line` and `explain_lesson` show it.

Lesson: 3 (the ladder), 4 (the 2350 MB rung)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from lmcourse.bench.memory import MemoryUse, measure_memory
from lmcourse.config import TurbomindEngineConfig

__all__ = [
    "LESSON_LADDER_MIB",
    "LESSON_PACKED_MIB",
    "explain_lesson",
    "fit_line",
    "format_ladder",
    "format_packed_rung",
    "measure_ladder",
]

LESSON_LADDER_MIB: Mapping[float, int] = {0.8: 7856, 0.5: 6600, 0.01: 4096}  # lesson.md, an 8 GB slice of an A100
LESSON_PACKED_MIB = 2350  # the same slice at 0.01, with 4-bit weights
_MIB = 2**20


def measure_ladder(
    folder: Path,
    config: TurbomindEngineConfig,
    *,
    shares: Sequence[float] = tuple(LESSON_LADDER_MIB),
    model: str | None = None,
) -> list[MemoryUse]:
    """One engine after the other, with each of these cache_max_entry_counts."""
    rungs = []
    for share in shares:
        rungs.append(measure_memory(folder, dataclasses.replace(config, cache_max_entry_count=share), model=model))
    return rungs


def fit_line(ladder: Mapping[float, float]) -> tuple[float, float]:
    """(rest, free) with total = rest + share · free through the two highest shares."""
    low, high = sorted(ladder)[-2:]
    free = (ladder[high] - ladder[low]) / (high - low)
    return ladder[high] - high * free, free


def explain_lesson() -> str:
    """Why the lesson's three figures cannot all be totals of one machine."""
    rest, free = fit_line(LESSON_LADDER_MIB)
    lowest = min(LESSON_LADDER_MIB)
    high, middle, low = (LESSON_LADDER_MIB[share] for share in (0.8, 0.5, lowest))
    return (
        f"the lesson's {high} MB at 0.8 and {middle} MB at 0.5 imply {free:.0f} MB free after the weights,\n"
        f"hence {rest + lowest * free:.1f} MB at {lowest}. It printed {low}: its figures are not on one line"
    )


def format_packed_rung(plain: MemoryUse, packed: MemoryUse) -> str:
    """Where the bytes between two rungs of one share are: part by part, in 16 bits, in 4, and the difference."""
    lines = [f"{'MiB':32}{'16 bits':>12}{'4 bits':>12}{'difference':>12}"]
    for before, after in zip(plain.parts, packed.parts, strict=True):
        lines.append(_row(before.name, before.measured_bytes, after.measured_bytes))
    sums = [sum(part.measured_bytes for part in rung.parts) for rung in (plain, packed)]
    lines += [_row("sum of the rows", *sums), _row("total, measured", plain.total_bytes, packed.total_bytes)]
    lines.append(_row("taken", plain.taken_bytes, packed.taken_bytes))
    lesson = LESSON_LADDER_MIB[0.01]
    lines.append(f"{'the lesson, of an 8 GB slice':32}{lesson:12.1f}{LESSON_PACKED_MIB:12.1f}"
                 f"{LESSON_PACKED_MIB - lesson:12.1f}")  # fmt: skip
    return "\n".join(lines)


def _row(name: str, before: int, after: int) -> str:
    return f"{name:32}{before / _MIB:12.1f}{after / _MIB:12.1f}{(after - before) / _MIB:12.1f}"


def format_ladder(rungs: Sequence[MemoryUse]) -> str:
    """The tables of all rungs, then one line for each beside the lesson's figure, and the line through them."""
    lines = [*map(str, rungs), "", f"{'share':>6}{'taken, MiB':>12}{'KV tokens':>12}{'lesson, MB':>12}"]
    for rung in rungs:
        share, tokens = rung.cache_max_entry_count, rung.num_blocks * rung.tokens_per_block
        lines.append(f"{share:6}{rung.taken_bytes / _MIB:12.1f}{tokens:12}{LESSON_LADDER_MIB.get(share, ''):>12}")
    taken = {rung.cache_max_entry_count: rung.taken_bytes / _MIB for rung in rungs}
    rest, free = fit_line(taken)
    lowest = min(taken)
    lines.append(f"here: {free:.1f} MiB free after the weights, hence {rest + lowest * free:.1f} MiB at {lowest}")
    return "\n".join([*lines, explain_lesson()])
