"""`lmcourse serve`: a model as a server, and those who talk with it. One file per service.

Lesson: 5 (serving)
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any

__all__ = ["add_parser"]

_SERVICES = ("api_server", "api_client", "gradio", "replicas", "roster")  # module serve_NAME, with add_parser(kinds)

_EXAMPLES = """examples:
  lmcourse serve api_server ~/internlm2-chat-1_8b --server-port 23333
  lmcourse serve api_client http://localhost:23333
  lmcourse serve gradio http://localhost:23333 --server-port 6006
  lmcourse serve replicas ~/internlm2-chat-1_8b --replicas 2
  lmcourse serve roster names.txt --out roster.json
"""


def add_parser(subparsers: Any) -> None:
    """Adds `serve` and its services."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="a model as a server, and clients of one",
        description="A model as a server, and clients of one.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="service", required=True, metavar="SERVICE")
    for name in _SERVICES:
        importlib.import_module(f"lmcourse.cli.serve_{name}").add_parser(kinds)
