"""`lmcourse list`: the model families of the lesson's table, and which of them run.

Lesson: 2 (models the engine can run)
"""

from __future__ import annotations

import argparse
import json
from typing import Any

__all__ = ["add_parser", "run"]

_EXAMPLES = """examples:
  lmcourse list
  lmcourse list --json                 rows of {family, architectures, modality, status}
  lmcourse list --check                runs a tiny random model of each row; exit status 1 if one fails
"""


def add_parser(subparsers: Any) -> None:
    """Adds `list`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "list",
        help="the model families, and which of them run",
        description="The model families of the lesson's table: what configs call them, and whether they run here.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON (default: a table)")
    form.add_argument(
        "--check", action="store_true", help="run a tiny random model of each row (default: only list them); seconds"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the table of families, and the models that come along."""
    from lmcourse.bundled import bundled_names, dummy_names
    from lmcourse.models import FAMILIES

    if args.check:
        return _check()
    if args.json:
        rows = [
            {"family": f.name, "architectures": list(f.architectures), "modality": f.modality, "status": f.status}
            for f in FAMILIES
        ]
        print(json.dumps(rows, indent=2))
        return 0
    table = [("family", "sizes", "modality", "status", "architectures")]
    table += [(f.name, f.sizes, f.modality, f.status, ", ".join(f.architectures)) for f in FAMILIES]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    for row in table:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]))
    print(f"\nmodels that come along: {', '.join(bundled_names())}")
    print(f"real shapes with random weights, for measuring: {', '.join(dummy_names())}")
    return 0


def _check() -> int:
    """A line per row as soon as it is known; 1 if any failed."""
    from lmcourse.bench.families import run_family
    from lmcourse.models import FAMILIES

    failed = 0
    for family in FAMILIES:
        trial = run_family(family)
        said = {True: "ok", False: "failed", None: "-"}[trial.ok]
        print(f"{family.name:<20} {said:<7} {trial.what}", flush=True)
        failed += trial.ok is False
    return min(1, failed)
