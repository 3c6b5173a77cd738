"""`lmcourse bench`: measure this machine. One kind a row; each is a file of its own.

    decode, prefill, throughput   bench_speed.py       an engine's speed, beside what bytes and FLOPs allow
    serve                         bench_serve.py       a server under load
    memory                        bench_memory.py      what takes how much of it
    startup                       bench_startup.py     from the start of a process to the first answer
    kernels                       bench_kernels.py     each operation by itself
    steps, capacity               bench_capacity.py    how many students that is enough for
    ledger                        bench_ledger.py      recorded results beside other engines'

Lesson: 2 (the first honest speed comparison), 3 (predict, then measure)
"""

from __future__ import annotations

import argparse
from typing import Any

from lmcourse.cli import bench_capacity, bench_kernels, bench_ledger, bench_memory, bench_speed, bench_startup
from lmcourse.cli.bench_serve import add_serve

__all__ = ["add_parser"]

_ADDERS = (  # of parsers
    bench_speed.add_kinds,
    add_serve,
    bench_memory.add_kinds,
    bench_startup.add_kinds,
    bench_kernels.add_kinds,
    bench_capacity.add_kinds,
    bench_ledger.add_kinds,
)


def add_parser(subparsers: Any) -> None:
    """Adds `bench` and its kinds."""
    parser: argparse.ArgumentParser = subparsers.add_parser("bench", help="measure this machine")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for add in _ADDERS:
        add(kinds)
