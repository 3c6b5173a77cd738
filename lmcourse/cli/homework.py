"""lmcourse homework list | check | submit | grade: the exercises of the course from a terminal."""

from __future__ import annotations

import argparse

from lmcourse.errors import MachineError

__all__ = ["add_parser", "run"]

_LATER = {
    "check": "check the exercises of a notebook without opening it",
    "submit": "pack finished notebooks for the instructor",
    "grade": "grade a folder of submissions into a table",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "homework",
        help="list, check, submit and grade exercises",
        description="The exercises of the course. Today: list. The rest arrives with Part 8.",
        epilog="example: lmcourse homework list",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands = parser.add_subparsers(dest="action", required=True, metavar="list | check | submit | grade")
    commands.add_parser("list", help="every exercise: lesson, title, difficulty, minutes")
    for name, what in _LATER.items():
        later = commands.add_parser(name, help=f"{what} (arrives with Part 8)")
        later.add_argument("anything", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0 for a list; MachineError for what does not exist yet."""
    if args.action == "list":
        print("\n".join(_table()))
        return 0
    raise MachineError(
        f"`lmcourse homework {args.action}` arrives with Part 8 of the course",
        expected="lmcourse homework list",
        got=args.action,
        next_step='in a lesson\'s notebook, run the cell homework.check("1.1", …) below the exercise',
    )


def _table() -> list[str]:
    from lmcourse.homework import EXERCISES

    rows = [("exercise", "lesson", "difficulty", "minutes", "title")]
    rows += [
        (e.id, str(e.lesson), "●" * e.difficulty + "○" * (3 - e.difficulty), str(e.minutes), e.title) for e in EXERCISES
    ]
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    return ["  ".join([*(cell.ljust(w) for cell, w in zip(row[:4], widths, strict=True)), row[4]]) for row in rows]
