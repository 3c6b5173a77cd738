"""The command line: `lmcourse COMMAND ...`, also as `python -m lmcourse`.

One file per command in cli/, imported only when it is the command to run, so that `lmcourse -h` answers at once.
Exit status: 0 done, 1 an error with its message on stderr, 2 wrong usage, 130 stopped by Ctrl-C.

Lesson: 1 (first words from the model)
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from lmcourse import __version__
from lmcourse.errors import LmcourseError

__all__ = ["main"]


@dataclass(frozen=True)
class _Command:
    """A row of the command table; the module has add_parser(subparsers), which sets func."""

    name: str
    help: str
    aliases: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        return f"lmcourse.cli.{self.name}"


_COMMANDS = (
    _Command("lab", "open the course in JupyterLab"),
    _Command("doctor", "check this machine; every line is ok or says what mends it", ("check_env",)),
    _Command("list", "the model families, and which of them run"),
    _Command("chat", "talk with a model in the terminal"),
    _Command("convert", "write a model in the engine's own (TurboMind) format"),
    _Command("lite", "make a model smaller: 4-bit weights, calibration"),
    _Command("serve", "a model as a server, and clients of one"),
    _Command("bench", "measure this machine"),
    _Command("homework", "list, check, submit and grade exercises"),
)

_EPILOG = """examples:
  lmcourse lab                       open lesson 1
  lmcourse chat                      talk with the course's model
  lmcourse chat -h                   every flag of a command with its default
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    _make_output_forgiving()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _make_parser(arguments)
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    args, unknown = parser.parse_known_args(arguments)
    if unknown and not getattr(args, "passes_on", False):
        _refuse_unknown(parser, arguments, unknown)
    args.unknown = unknown
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = int(args.func(args))
            sys.stdout.flush()
            return status
    except LmcourseError as error:
        print(f"lmcourse: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlmcourse: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("LMCOURSE_TRACEBACK"):
            raise
        print(f"lmcourse: {type(error).__name__}: {error}", file=sys.stderr)
        print("  next step: LMCOURSE_TRACEBACK=1 before the command shows where it happened", file=sys.stderr)
        return 1


def _make_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Only the command that is named gets its own flags; the others are known by their help line."""
    parser = argparse.ArgumentParser(
        prog="lmcourse",
        description="A course on deploying large language models, and the engine that it opens up.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lmcourse {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    for command in _COMMANDS:
        if named in (command.name, *command.aliases):
            importlib.import_module(command.module).add_parser(subparsers)
        else:
            subparsers.add_parser(command.name, aliases=command.aliases, help=command.help)
    return parser


def _refuse_unknown(parser: argparse.ArgumentParser, arguments: Sequence[str], unknown: Sequence[str]) -> NoReturn:
    """Wrong usage of the command that was named, with the nearest flag that it has."""
    for argument in arguments:
        commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parser = next((action.choices[argument] for action in commands if argument in action.choices), parser)
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    near = [difflib.get_close_matches(word.partition("=")[0], flags, n=1) for word in unknown if word.startswith("--")]
    advice = f"; did you mean {near[0][0]}?" if near and near[0] else f"; {parser.prog} -h shows what there is"
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{advice}")


def _make_output_forgiving() -> None:
    """A terminal that cannot show a character gets a question mark instead of an exception."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"lmcourse: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
