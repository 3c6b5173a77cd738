"""`lmcourse serve api_client URL`: talk with a server in the terminal, as `lmcourse chat` does with a model.

The conversation is kept here and sent whole each time, to any server of OpenAI's interface; with --session-id our
server keeps it, and another terminal can go on with it.

Lesson: 5 (the command-line client)
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from lmcourse.cli.flags import SAMPLING_FLAGS, Flag, add_flags, generation_config
from lmcourse.cli.talk import converse, prepare_keyboard
from lmcourse.cli.witness import note_turns

if TYPE_CHECKING:
    from lmcourse.client import Client, InteractiveTalk

__all__ = ["CLIENT_FLAGS", "add_parser", "run"]

CLIENT_FLAGS = (Flag("--api-key", "key that the server asks for", "KEY", shown="none"),)
_OWN_FLAGS = (
    Flag("--session-id", "have the server keep the conversation, under this number", "N", int, shown="kept here"),
    Flag("--model", "which of the server's models", "NAME", shown="its first"),
)
_EXAMPLES = """examples:
  lmcourse serve api_client http://localhost:23333
  lmcourse serve api_client http://localhost:23333 --api-key sk-mine --temperature 0.8 --top-p 0.9
  echo "What is the KV cache?" | lmcourse serve api_client http://localhost:23333
"""


def add_parser(kinds: Any) -> None:
    """Adds `api_client`."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "api_client",
        help="talk with a server in the terminal",
        description="Talk with a server. An empty line sends what was typed; `end` forgets the talk, `exit` leaves.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("api_server_url", metavar="URL", help="the server's address, such as http://localhost:23333")
    add_flags(parser.add_argument_group("server"), (*CLIENT_FLAGS, *_OWN_FLAGS))
    add_flags(parser.add_argument_group("answers (greedy unless a sampling flag is given)"), SAMPLING_FLAGS)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """The server is asked before the first prompt, so that a dead address shows at once."""
    gen, note = generation_config(args), note_turns("api_client")
    from lmcourse.client import Client

    prepare_keyboard()
    with Client(args.api_server_url, args.api_key, model=args.model) as client, _partner(client, args) as partner:
        how = "sampled" if gen.samples else "greedy"
        print(f"{client.model} at {client.url}, {how} answers\n`exit` leaves, `end` forgets the conversation\n")
        converse(partner, gen, note)
    return 0


def _partner(client: Client, args: argparse.Namespace) -> AbstractContextManager[Client | InteractiveTalk]:
    """Who keeps the conversation."""
    if args.session_id is None:
        return client
    from lmcourse.client import InteractiveTalk

    return InteractiveTalk(args.api_server_url, args.api_key, session_id=args.session_id)
