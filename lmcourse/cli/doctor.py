"""`lmcourse doctor` (also `check_env`): what this machine lacks for the course, and the command that mends it.

Exit status 1 if anything needs fixing.

Lesson: 1 (doctor)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

__all__ = ["add_parser", "run"]

_EXAMPLES = """examples:
  lmcourse doctor                          every check; each line is ok or says what mends it
  lmcourse doctor --offline                without asking the model hubs
  lmcourse doctor --link-model             make ~/internlm2-chat-1_8b lead to a model
  lmcourse doctor --class 30               and the checklist before a class: 30 students on this machine, or its server
  lmcourse check_env --json                versions and rows, to paste into an issue
"""


def add_parser(subparsers: Any) -> None:
    """Adds `doctor` and its other name."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor",
        aliases=["check_env"],
        help="check this machine for the course; every line is ok or says what mends it",
        description="Check Python, packages, torch, GPU, Triton, memory, disk, ports, hubs and the course's model.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--offline", action="store_true", help="do not ask the model hubs (default: ask, 3 seconds)")
    parser.add_argument("--json", action="store_true", help="print JSON to paste into an issue (default: a table)")
    parser.add_argument(
        "--link-model",
        metavar="FOLDER",
        nargs="?",
        const="",
        help="first make ~/internlm2-chat-1_8b a link to FOLDER; without FOLDER to the real InternLM2-chat-1.8B if it "
        "lies in a usual place and fits into memory, else to the bundled tiny-chat (default: no link is made)",
    )
    parser.add_argument(
        "--class",
        dest="students",
        metavar="STUDENTS",
        nargs="?",
        type=int,
        const=30,
        help="also check what a class needs: lessons, wheelhouse, grading, memory for each, the server that "
        "LMCOURSE_SERVER names (without a number: 30 students; default: no class)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from lmcourse.doctor import choose_model, class_report, doctor, link_model

    if args.link_model is not None:
        target = Path(args.link_model) if args.link_model else choose_model(Path.home())
        print(f"~/internlm2-chat-1_8b leads to {link_model(Path.home(), target)}\n")
    report = doctor(offline=args.offline)
    if args.students is not None:
        report = class_report(report, _at_least_one(args.students))
    print(json.dumps(report.to_json(), indent=2, ensure_ascii=False) if args.json else report)
    return 0 if report.healthy else 1


def _at_least_one(students: int) -> int:
    if students < 1:
        from lmcourse.errors import ConfigError

        raise ConfigError("a class has students", expected="1 or more", got=students, where="--class")
    return students
