"""`lmcourse bench ledger`: recorded results beside what other engines reach on the same workloads.

Lesson: 3 (predict, then measure)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_kinds", "run"]

_LEDGER = Path(__file__).parents[2] / "benchmarks" / "ledger.jsonl"
_EXAMPLES = """examples:
  lmcourse bench ledger
  lmcourse bench decode dummy:llama2-7b --ledger mine.jsonl && lmcourse bench ledger mine.jsonl
"""


def add_kinds(kinds: Any) -> None:
    """Adds ledger."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "ledger",
        help="recorded results beside other engines'",
        description="The latest recorded value of each kind by model, setting and machine, beside what other engines "
        "reach and what this one must.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", nargs="?", type=Path, default=_LEDGER, metavar="FILE", help="(default: the checkout's ledger.jsonl)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the tables."""
    from lmcourse.bench import format_ledger, read_ledger, read_peers

    print(format_ledger(read_ledger(args.file), read_peers()))
    return 0
