"""`lmcourse serve gradio URL_OR_MODEL`: a chat page for the browser, over a server or over a model loaded here.

What begins with http:// or https:// is a server's address; all else names a model. The page stays on this machine
unless --server-name opens it, and needs nothing from the internet.

Lesson: 5 (the web client)
"""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager
from typing import Any

from lmcourse.cli.flags import (
    ENGINE_FLAGS,
    LESSON_FLAGS,
    TEMPLATE_FLAGS,
    Flag,
    add_flags,
    engine_config,
    explain_lesson_flags,
    template_config,
)
from lmcourse.cli.serve_api_client import CLIENT_FLAGS
from lmcourse.cli.witness import check_task, watched

__all__ = ["add_parser", "run"]

_PAGE_FLAGS = (
    Flag("--server-name", "address to listen on; 0.0.0.0 is all, for other machines, too", "HOST", str, "127.0.0.1"),
    Flag("--server-port", "port of the page; 0: any that is free", "PORT", int, 6006),
)
_VL_HELP = "the lesson's form, a picture and a question, in place of a chat (default: a chat)"
_EXAMPLES = """examples:
  lmcourse serve gradio http://localhost:23333 --server-name 0.0.0.0 --server-port 6006
  lmcourse serve gradio tiny-chat                            loads the model itself, no server needed
  lmcourse serve gradio ~/llava-v1.6-vicuna-7b --vl          ask about a picture
  lmcourse serve gradio ~/internlm2-chat-1_8b-4bit --model-format awq --cache-max-entry-count 0.4
"""


def add_parser(kinds: Any) -> None:
    """Adds `gradio`."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "gradio",
        help="a chat page over a server or a model",
        description="A chat page for the browser: streaming answers, stop, regenerate, sampling controls.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model_path_or_server", metavar="URL_OR_MODEL", help="a server's address, or a model folder or name"
    )
    page = parser.add_argument_group("page")
    add_flags(page, _PAGE_FLAGS)
    page.add_argument("--vl", action="store_true", help=_VL_HELP)
    add_flags(parser.add_argument_group("with a server's address"), CLIENT_FLAGS)
    add_flags(parser.add_argument_group("with a model: what it sees"), TEMPLATE_FLAGS)
    add_flags(parser.add_argument_group("with a model: engine"), ENGINE_FLAGS)
    add_flags(parser.add_argument_group("flags of LMDeploy that change nothing here"), LESSON_FLAGS)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """The port is taken first: loading a model for a page that cannot be shown would be in vain."""
    explain_lesson_flags(args)
    check_task()
    from lmcourse.serve.background import run_until_stopped
    from lmcourse.serve.listening import is_open_to_others, where_to_find
    from lmcourse.serve.running import bind

    with bind(args.server_name, args.server_port) as listening, _open_talker(args) as talker:
        app = _make_app(args, talker)
        if is_open_to_others(args.server_name):
            print("warning: everyone who can reach this machine's port can use the page", file=sys.stderr)
        print("\n  ".join(["the chat page is at:", *where_to_find(listening)]), flush=True)
        run_until_stopped(app, listening)
    return 0


def _make_app(args: argparse.Namespace, talker: Any) -> Any:
    """The form, or the chat page; it has a box for pictures where the model was loaded here and takes some."""
    if args.vl:
        from lmcourse.serve.picture_page import picture_page

        return picture_page(watched(talker), title=_title(args))
    from lmcourse.serve.web import create_web_app, takes_pictures

    return create_web_app(watched(talker), title=_title(args), takes_pictures=takes_pictures(talker))


def _is_address(text: str) -> bool:
    return text.strip().lower().startswith(("http://", "https://"))


def _open_talker(args: argparse.Namespace) -> AbstractContextManager[Any]:
    """A client of the server, or a pipeline with the model."""
    if _is_address(args.model_path_or_server):
        from lmcourse.client import Client

        return Client(args.model_path_or_server, args.api_key)
    from lmcourse.pipeline import load_pipeline

    return load_pipeline(
        args.model_path_or_server, backend_config=engine_config(args), chat_template_config=template_config(args)
    )


def _title(args: argparse.Namespace) -> str:
    where = args.model_path_or_server.strip().rstrip("/")
    return f"Chat with the model at `{where}`" if _is_address(where) else f"Chat with {where.rpartition('/')[2]}"
