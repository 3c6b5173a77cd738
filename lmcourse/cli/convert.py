"""`lmcourse convert [NAME] PATH --dst-path OUT`: a Hugging Face model in the engine's own (TurboMind) format.

LMDeploy 0.3.0 wanted the chat template's name first; here it may be left out, because the config tells it.

Lesson: 2 (conversion, tensor by tensor)
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from lmcourse.cli.flags import Flag, add_flags
from lmcourse.errors import ConfigError

__all__ = ["add_parser", "run"]

_EXAMPLES = """examples:
  lmcourse convert tiny-chat --dst-path workspace
  lmcourse convert internlm2 ~/internlm2-chat-1_8b --dst-path ~/internlm2-turbomind
  lmcourse chat ~/internlm2-turbomind
"""


def add_parser(subparsers: Any) -> None:
    """Adds `convert`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "convert",
        help="write a model in the engine's own (TurboMind) format",
        description="Write a model in the engine's own format and show what became of every tensor. Chat, pipeline and "
        "bench convert on the fly, so this is for looking, and for loading faster.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="chat template to write down (default: the model's)")
    parser.add_argument("path", metavar="PATH", help="model folder or name")
    add_flags(
        parser,
        (
            Flag("--dst-path", "new folder", "OUT", Path, Path("workspace")),
            Flag("--model-format", "format of PATH", choices=("hf", "awq"), shown="detected"),
            Flag("--tp", "GPUs to cut the weights for; the engine cuts them when it loads, so only 1", "N", int, 1),
        ),
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion (default: refuse)")
    parser.add_argument("--quiet", action="store_true", help="do not show the tensors (default: show them)")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Nothing is written before the names are known to be right."""
    from lmcourse.models import convert
    from lmcourse.text.chat_template import find_template
    from lmcourse.text.hub import find_model

    if args.tp != 1:
        raise ConfigError("weights are not cut when they are converted", expected="--tp 1", got=f"--tp {args.tp}")
    source = find_model(args.path)
    if args.name is not None:
        find_template(args.name, source)
    destination = args.dst_path.expanduser()
    rows = convert(source, destination, model_name=args.name, overwrite=args.overwrite)
    if not args.quiet:
        for row in rows:
            print(row)
    print(f"{len(rows)} tensors of {source} are in {destination}; next: lmcourse chat {shlex.quote(str(destination))}")
    return 0
