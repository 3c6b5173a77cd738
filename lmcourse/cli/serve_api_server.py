"""`lmcourse serve api_server`: a model behind OpenAI's interface. The flags are those of LMDeploy 0.3.0, and some more.

It listens on this machine alone unless told otherwise (LMDeploy: on all addresses). The port is taken before the model
is loaded, so that a port in use is known at once. Ctrl-C and SIGTERM finish what runs; a second one does not wait.

Lesson: 5 (starting the server)
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from lmcourse.cli.witness import check_task, note_engine
from lmcourse.config import ChatTemplateConfig
from lmcourse.errors import ConfigError, MachineError

if TYPE_CHECKING:
    from lmcourse.pipeline import Pipeline
    from lmcourse.serve.settings import ServerSettings

__all__ = [
    "add_parser",
    "add_server_arguments",
    "need_server_extra",
    "run",
    "server_settings",
    "template_of",
    "tls_files",
    "warn_if_open",
]

_EXAMPLES = """examples:
  lmcourse serve api_server ~/internlm2-chat-1_8b --server-port 23333
  lmcourse serve api_server ~/internlm2-chat-1_8b-4bit --model-format awq --cache-max-entry-count 0.4
  lmcourse serve api_server tiny-chat --server-name 0.0.0.0 --api-keys one-key another-key
  curl http://127.0.0.1:23333/v1/models
"""

_SERVER_FLAGS = (
    Flag("--server-name", "address to listen on; 0.0.0.0: all of this machine's", "ADDRESS", default="127.0.0.1"),
    Flag("--server-port", "port to listen on; 0: a free one", "PORT", int, 23333),
    Flag("--max-queue", "answers that may wait for a place in the batch; more are refused with 429", "N", int, 1024),
    Flag("--grace", "time for running answers to finish when the server is stopped", "SECONDS", float, 30.0),
    Flag(
        "--log-level", "what the web server prints", default="ERROR",
        choices=("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"),
    ),
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Adds `api_server`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "api_server",
        help="a model behind OpenAI's interface",
        description="Load a model and answer over HTTP: /v1/chat/completions, /v1/completions, /v1/models and more. "
        "The page at / shows all of it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_server_arguments(parser)
    parser.set_defaults(func=run)


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and every flag of a server of it."""
    default = "the course's model: LMCOURSE_MODEL, or tiny-chat"
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"model folder or name (default: {default})")
    server = parser.add_argument_group("server")
    add_flags(server, _SERVER_FLAGS)
    _add_access_flags(server)
    template = parser.add_argument_group("what the model sees")
    add_flags(template, TEMPLATE_FLAGS)
    template.add_argument("--chat-template", metavar="NAME|FILE|JSON",
                          help="a template's name; or model_name, meta_instruction, capability as JSON or in a JSON "
                          "file (default: chosen from the model)")  # fmt: skip
    add_flags(parser.add_argument_group("engine"), ENGINE_FLAGS)
    add_flags(parser.add_argument_group("flags of LMDeploy that change nothing here"), LESSON_FLAGS)


def _add_access_flags(group: Any) -> None:
    group.add_argument("--api-keys", nargs="+", default=[], metavar="KEY",
                       help="requests must have one of these: Authorization: Bearer KEY (default: none)")  # fmt: skip
    group.add_argument("--class-roster", metavar="FILE", type=Path,
                       help="students, their keys and quotas as JSON (default: no class)")  # fmt: skip
    group.add_argument("--ssl", action="store_true",
                       help="https; the files are named by SSL_KEYFILE and SSL_CERTFILE (default: http)")  # fmt: skip
    for name, what in (("origins", "web pages that may ask"), ("methods", "HTTP methods that they may use"),
                       ("headers", "headers that they may send")):  # fmt: skip
        group.add_argument(f"--allow-{name}", nargs="+", default=["*"], metavar=name.upper(),
                           help=f"{what} from a browser; *: all (default: *)")  # fmt: skip
    group.add_argument("--allow-credentials", action="store_true", help="and with cookies (default: without)")


def need_server_extra() -> None:
    """MachineError where the packages of a server are not installed."""
    try:
        importlib.import_module("lmcourse.serve.running")
    except ModuleNotFoundError as error:
        raise MachineError(
            f"the server needs {error.name}", expected="the extra `serve`", got="lmcourse without it",
            next_step='python -m pip install "lmcourse[serve]"',
        ) from error  # fmt: skip


def server_settings(args: argparse.Namespace) -> ServerSettings:
    """What the flags say about the server; ConfigError for a value out of range."""
    from lmcourse.serve.class_roster import Roster, read_roster
    from lmcourse.serve.settings import ServerSettings

    roster = Roster(()) if args.class_roster is None else read_roster(args.class_roster)
    return ServerSettings(
        api_keys=tuple(args.api_keys),
        students=roster.students,
        instructor_key=roster.instructor_key,
        students_see_class=roster.students_see_class,
        model_aliases=(args.model_name,) if args.model_name else (),
        allow_origins=tuple(args.allow_origins),
        allow_credentials=args.allow_credentials,
        allow_methods=tuple(args.allow_methods),
        allow_headers=tuple(args.allow_headers),
        max_queue=args.max_queue,
        grace_seconds=args.grace,
    )


def run(args: argparse.Namespace) -> int:
    """Everything that can be wrong with the flags is found before the model is loaded."""
    need_server_extra()
    from lmcourse.serve.running import bind

    config, template, tls = engine_config(args), template_of(args), tls_files(args)
    settings = server_settings(args)
    explain_lesson_flags(args)
    check_task()
    listener = bind(args.server_name, args.server_port)
    warn_if_open(args)
    from lmcourse.pipeline import load_pipeline

    with listener, load_pipeline(args.model, backend_config=config, chat_template_config=template) as pipe:
        note_engine(pipe)
        _serve(pipe, settings, listener, tls, args.log_level)
    return 0


def _serve(
    pipe: Pipeline, settings: ServerSettings, listener: Any, tls: tuple[Path, Path] | None, log_level: str
) -> None:
    from lmcourse.serve.app import make_app
    from lmcourse.serve.listening import where_to_find
    from lmcourse.serve.running import Server

    server = Server(make_app(pipe, settings), listener, tls=tls, log_level=log_level.lower())
    stats = pipe.stats()
    print(
        f"{pipe.name}: {pipe.engine.spec.family}, template {pipe.template.name}, sessions of {stats.session_len} tokens"
    )
    places = where_to_find(listener, "https" if tls else "http")
    started = f"listening on {', and '.join(places)}, which shows how to ask; Ctrl-C stops" + _about_class(settings)
    asyncio.run(server.listen(on_started=lambda: print(started, flush=True)))
    print("stopped", flush=True)


def _about_class(settings: ServerSettings) -> str:
    if not settings.students:
        return ""
    if settings.instructor_key is None and not settings.api_keys and not settings.students_see_class:
        lacks = '"instructor": {"key": ...} in the roster, or --api-keys'
        return f"\na class of {len(settings.students)}; nobody may see the class view: that needs {lacks}"
    return f"\na class of {len(settings.students)}; who is running what is at class/view below that address"


def template_of(args: argparse.Namespace) -> ChatTemplateConfig:
    """--chat-template, or the flags that LMDeploy has for its parts."""
    given = args.chat_template
    if given is None:
        return template_config(args)
    if args.model_name or args.meta_instruction is not None or args.cap != "chat":
        raise ConfigError(
            "the chat template is given twice", got="--chat-template, and --model-name, --meta-instruction or --cap",
            expected="one or the other", where="--chat-template",
        )  # fmt: skip
    path = Path(given).expanduser()
    if not given.lstrip().startswith("{") and not path.is_file():
        return ChatTemplateConfig(model_name=given)
    try:
        parts = json.loads(path.read_text(encoding="utf-8") if path.is_file() else given)
    except (OSError, ValueError) as error:
        raise ConfigError("the chat template cannot be read", got=str(error), where=given[:80]) from error
    if not isinstance(parts, dict):
        raise ConfigError("a chat template is a JSON object", got=type(parts).__name__, where=given[:80])
    return ChatTemplateConfig(**parts)


def tls_files(args: argparse.Namespace) -> tuple[Path, Path] | None:
    if not args.ssl:
        return None
    files = {name: Path(os.environ.get(name, "")).expanduser() for name in ("SSL_KEYFILE", "SSL_CERTFILE")}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise ConfigError(
            f"--ssl needs {' and '.join(missing)}", expected="the name of a PEM file in the environment",
            got=", ".join(f"{name}={os.environ.get(name, '')!r}" for name in missing), where="--ssl",
        )  # fmt: skip
    return files["SSL_KEYFILE"], files["SSL_CERTFILE"]


def warn_if_open(args: argparse.Namespace) -> None:
    """An open port without a key answers whoever finds it."""
    from lmcourse.serve.listening import is_open_to_others

    if not args.api_keys and not args.class_roster and is_open_to_others(args.server_name):
        print(
            f"lmcourse: warning: listening on {args.server_name} without a key: whoever reaches this machine can use "
            "the model\n  next step: add --api-keys KEY, or listen on 127.0.0.1 and forward the port (ssh -L)",
            file=sys.stderr,
        )
