"""`lmcourse serve replicas`: several engines behind one address. The flags of api_server, and how many.

Ray Serve runs the engines, here or on the machines of a cluster; HTTP is answered by one process on this machine, with
the same routes, keys and errors as `serve api_server`. Without --ray-address, Ray is started here, on loopback, and
ends with the command.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from lmcourse.cli.flags import Flag, add_flags, engine_config, explain_lesson_flags
from lmcourse.cli.serve_api_server import (
    add_server_arguments,
    need_server_extra,
    server_settings,
    template_of,
    tls_files,
    warn_if_open,
)
from lmcourse.errors import MachineError

__all__ = ["add_parser", "run"]

_EXAMPLES = """examples:
  lmcourse serve replicas tiny-chat --replicas 2
  lmcourse serve replicas ~/internlm2-chat-1_8b --min-replicas 1 --max-replicas 4 --enable-prefix-caching
  lmcourse serve replicas ~/internlm2-chat-1_8b --ray-address 10.0.0.5:6379 --replicas 8 --api-keys one-key
  lmcourse serve replicas --restart 10.0.0.5:6379      replace them one by one; no request is lost
"""

_REPLICA_FLAGS = (
    Flag("--replicas", "engines to run; the same as both limits below", "N", int, shown="2"),
    Flag("--min-replicas", "engines that always run", "N", int, shown="--replicas"),
    Flag("--max-replicas", "engines at most; more as the load grows", "N", int, shown="--replicas"),
    Flag("--ray-address", "head node of a Ray cluster", "HOST:PORT", shown="Ray is started here"),
    Flag("--app-name", "under which the cluster knows the replicas", "NAME", default="lmcourse"),
    Flag("--cpus-per-replica", "processors that Ray sets aside for each", "N", float, 1.0),
    Flag(
        "--routing", "prefix: alike beginnings to one replica, unless it is busy; auto: prefix with "
        "--enable-prefix-caching", default="auto", choices=("auto", "prefix", "least-loaded"),
    ),
    Flag("--patience", "how long a request waits for a replica to take it", "SECONDS", float, 60.0),
    Flag("--idle", "how long an engine beyond the fewest stays when the others would do", "SECONDS", float, 300.0),
    Flag("--stuck", "an engine that has work and ends no step for so long is replaced", "SECONDS", float, 60.0),
    Flag(
        "--when-lost", "an answer that has begun and whose replica dies: computed again elsewhere and gone on with, or "
        "ended with an error", default="resume", choices=("resume", "say"),
    ),
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Adds `replicas`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replicas",
        help="several engines behind one address (Ray Serve)",
        description="Run several engines, on this machine or on a Ray cluster, behind one OpenAI endpoint. A replica "
        'that dies is replaced; the others answer its requests. Needs the extra: pip install "lmcourse[ray]".',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("replicas")
    add_flags(group, _REPLICA_FLAGS)
    group.add_argument("--restart", metavar="HOST:PORT",
                       help="replace the replicas of the service whose Ray cluster is there, one by one, and end; "
                       "that service prints this address when it starts")  # fmt: skip
    add_server_arguments(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Serve, or ask a service that runs to replace its replicas."""
    _need_ray()
    if args.restart is not None:
        return _restart(args.restart, args.app_name)
    need_server_extra()
    from lmcourse.replicas.settings import FrontTask, ReplicaSettings
    from lmcourse.serve.running import bind

    few, most = _limits(args)
    replicas = ReplicaSettings(
        min_replicas=few,
        max_replicas=most,
        ray_address=args.ray_address,
        app_name=args.app_name,
        routing=args.routing,
        cpus_per_replica=args.cpus_per_replica,
        patience_seconds=args.patience,
        grace_seconds=args.grace,
        idle_seconds=args.idle,
        stuck_seconds=args.stuck,
        resumes=args.when_lost == "resume",
    )
    tls = tls_files(args)
    given = {
        "engine": engine_config(args), "template": template_of(args), "server": server_settings(args),
        "tls": None if tls is None else (str(tls[0]), str(tls[1])), "log_level": args.log_level.lower(),
    }  # fmt: skip
    explain_lesson_flags(args)
    with bind(args.server_name, args.server_port) as listener:
        warn_if_open(args)
        from lmcourse.text.hub import course_model, find_model

        find_model(course_model() if args.model is None else args.model)  # a name that leads nowhere is known at once
        _serve(FrontTask(args.model, "", listener.fileno(), replicas=replicas, **given), listener)
    print("stopped", flush=True)
    return 0


def _limits(args: argparse.Namespace) -> tuple[int, int]:
    """Fewest and most: what is given, and for the other what goes with it."""
    both = args.replicas
    few = next((n for n in (args.min_replicas, both) if n is not None), min(2, args.max_replicas or 2))
    return few, next((n for n in (args.max_replicas, both) if n is not None), few)


def _need_ray() -> None:
    """Known before anything slow begins."""
    if importlib.util.find_spec("ray") is None:
        raise MachineError(
            "replicas need Ray", expected="the extra `ray`", got="lmcourse without it",
            next_step='python -m pip install "lmcourse[serve,ray]"',
        )  # fmt: skip


def _serve(task: Any, listener: Any) -> None:
    """Ray, replicas, front, in this order; and back."""
    import dataclasses

    from lmcourse.replicas.keeper import Keeper
    from lmcourse.replicas.ray_start import running_ray

    asked_to_stop: list[int] = []
    settings, began = task.replicas, time.monotonic()
    _say("starting Ray and the replicas; the first start takes a minute")
    with running_ray(settings.ray_address, settings.max_replicas * settings.cpus_per_replica) as (ray, address):
        from lmcourse.replicas import deployment

        _on_signals(_interrupt)  # now, since Ray has put its own in their place
        task = dataclasses.replace(task, ray_address=address)
        deployment.start_serve()
        board = deployment.make_board(ray, settings.app_name)
        try:
            deployment.deploy(ray, task, board, 0)
            _say(f"{settings.min_replicas} replicas after {time.monotonic() - began:.1f} s; Ray is at {address}")
            Keeper(
                task,
                read_generation=lambda: _generation(ray, board),
                deploy=lambda generation: deployment.deploy(ray, task, board, generation),
                tell=_say,
                stop=lambda: bool(asked_to_stop),
            ).keep(lambda: _started(asked_to_stop, listener, task, address))
        finally:
            deployment.withdraw(settings.app_name, alone=settings.ray_address is None)
            ray.kill(board)


def _generation(ray: Any, board: Any) -> int:
    """What the board wants; 0 while it is being restarted, for which the keeper does not wait."""
    try:
        return int(ray.get(board.read.remote(), timeout=1).generation)
    except ray.exceptions.RayError:
        return 0


def _on_signals(act: Callable[..., Any]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, act)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _started(asked_to_stop: list[int], listener: Any, task: Any, address: str) -> None:
    """From now on a signal ends all of it in good order; a second one does not wait for answers."""

    def end(number: int, frame: object) -> None:
        if asked_to_stop:
            raise KeyboardInterrupt
        asked_to_stop.append(number)

    from lmcourse.serve.listening import where_to_find

    _on_signals(end)
    name = "" if task.replicas.app_name == "lmcourse" else f" --app-name {task.replicas.app_name}"
    _say(f"to replace the replicas one by one: lmcourse serve replicas --restart {address}{name}")
    places = where_to_find(listener, "https" if task.tls else "http")
    _say(f"listening on {', and '.join(places)}, which shows how to ask; Ctrl-C stops")


def _restart(address: str, app_name: str) -> int:
    """Ask the board, and wait until every replica is of the new generation."""
    from lmcourse.replicas.ray_start import connect_to_ray

    with connect_to_ray(address) as ray:
        from lmcourse.replicas.deployment import board_name

        try:
            board = ray.get_actor(board_name(app_name))
        except ValueError as error:
            raise MachineError(
                f"no replicas named {app_name!r} run there", expected="a running `lmcourse serve replicas`", got=address
            ) from error
        began, generation = time.monotonic(), ray.get(board.restart.remote())
        while True:
            notes = ray.get(board.read.remote()).notes.values()
            if notes and all(note.generation >= generation for note in notes):
                _say(f"{len(notes)} replicas of generation {generation} after {time.monotonic() - began:.1f} s")
                return 0
            time.sleep(0.5)


def _say(what: str) -> None:
    print(what, file=sys.stdout, flush=True)
