"""`lmcourse serve roster NAMES`: a key for each student of a class, in a file that `--class-roster` takes.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lmcourse.cli.flags import Flag, add_flags
from lmcourse.errors import ConfigError

__all__ = ["add_parser", "run"]

_QUOTA_FLAGS = (
    Flag("--max-concurrent", "answers that a student may have at one time", "N", int, shown="no limit"),
    Flag("--tokens-per-minute", "tokens of prompts and answers for each student", "TOKENS", int, shown="no limit"),
    Flag("--tokens-per-hour", "the same in an hour", "TOKENS", int, shown="no limit"),
    Flag("--tokens-total", "the same while the server runs", "TOKENS", int, shown="no limit"),
)
_EXAMPLES = """examples:
  lmcourse serve roster names.txt --out roster.json --csv keys.csv
  lmcourse serve roster names.txt --out roster.json --max-concurrent 2 --tokens-per-minute 6000
  echo "Late Comer" | lmcourse serve roster - --out roster.json --add
  lmcourse serve api_server tiny-chat --class-roster roster.json
"""


def add_parser(kinds: Any) -> None:
    """Adds `roster`."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "roster",
        help="keys for the students of a class",
        description="Make a key for each student and one for the instructor, and write the roster that "
        "`api_server --class-roster` takes. Only you can read what is written.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", metavar="NAMES", help="a text file with one name a line; -: standard input")
    parser.add_argument("--out", type=_path, default=Path("roster.json"), metavar="FILE",
                        help="the roster (default: roster.json)")  # fmt: skip
    parser.add_argument("--csv", type=_path, metavar="FILE",
                        help="and a list of names and keys to hand out (default: none)")  # fmt: skip
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--add", action="store_true",
                          help="the roster exists: add who is new, keep the rest (default: a new one)")  # fmt: skip
    existing.add_argument("--force", action="store_true",
                          help="replace existing files; the keys in them end (default: leave them)")  # fmt: skip
    add_flags(parser.add_argument_group("each student's quota"), _QUOTA_FLAGS)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Everything is checked before anything is written."""
    from lmcourse.serve.class_keys import check_free, list_keys, read_names, to_json, write_private

    names = read_names(_read_text(args.names), args.names)
    if args.csv is not None and args.csv.resolve() == args.out.resolve():
        raise ConfigError("two files have one name", expected="another name for --csv", got=str(args.out))
    for path in (args.out, args.csv):
        if path is not None and not (args.force or args.add):
            check_free(path)
    roster, num_new = _make(args, names)
    write_private(args.out, to_json(roster))
    print(f"{args.out}: {len(roster['students'])} students, {num_new} of them new, and the instructor's own key")
    if args.csv is not None:
        write_private(args.csv, list_keys(roster))
        print(f"{args.csv}: their names and keys, to hand out")
    print(f"next: lmcourse serve api_server MODEL --class-roster {args.out}")
    return 0


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _make(args: argparse.Namespace, names: list[str]) -> tuple[dict[str, Any], int]:
    """The roster, and how many in it had no key before."""
    from lmcourse.serve.class_keys import extend_roster, make_roster
    from lmcourse.serve.class_roster import read_roster

    limits = {flag.key: value for flag in _QUOTA_FLAGS if (value := getattr(args, flag.key)) is not None}
    if not args.add:
        return make_roster(names, limits), len(names)
    if limits:
        raise ConfigError("--add changes no quota", got=", ".join(limits), next_step=f"edit {args.out}")
    before = read_roster(args.out)
    roster = extend_roster(json.loads(args.out.read_text("utf-8")), names)
    return roster, len(roster["students"]) - len(before.students)


def _read_text(names: str) -> str:
    try:
        return sys.stdin.read() if names == "-" else Path(names).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        told = "a UTF-8 text file"
        raise ConfigError("the names cannot be read", expected=told, got=str(error), where=names) from error
