"""The front: a process that answers HTTP for all replicas: `python -m lmcourse.replicas.front`, started by the keeper.

    listening socket (inherited) ─→ lmcourse.serve's application ─→ FrontEngine ─→ replicas

It reads its task, one line of JSON, from stdin, loads, says `loaded`, waits for a line, answers, says `ready`, and ends
when stdin does: a front whose keeper died answers nobody. It holds tokenizer and template and no weights. The socket is
the keeper's, so that connections wait, and are not refused, while a front that died is replaced.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lmcourse.pipeline import Pipeline
from lmcourse.replicas.board import View
from lmcourse.replicas.carried import CarriedGrammars
from lmcourse.replicas.front_engine import FrontEngine, Replicas
from lmcourse.replicas.front_words import LOADED, READY
from lmcourse.replicas.settings import FrontTask
from lmcourse.serve.app import make_app, service_of
from lmcourse.serve.running import Server
from lmcourse.text.chat_template import find_template
from lmcourse.text.hub import course_model, find_model
from lmcourse.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from fastapi import FastAPI

    from lmcourse.engine import Engine
    from lmcourse.spec import ModelSpec

__all__ = ["FrontModel", "front_pipeline", "main", "make_front"]


@dataclass(frozen=True)
class FrontModel:
    """What a pipeline asks its engine for, where the engines are elsewhere."""

    tokenizer: Tokenizer
    spec: ModelSpec
    view: Callable[[], View]
    encoder: None = None  # pictures do not travel

    @property
    def session_len(self) -> int:
        """Of the replicas; all were given the same settings, so the shortest is everybody's."""
        return min(int(note.stats["session_len"]) for note in self.view().notes.values())

    @property
    def config(self) -> _Places:
        """For the queue's length."""
        return _Places(sum(note.max_batch_size for note in self.view().notes.values()) or 1)


@dataclass(frozen=True)
class _Places:
    max_batch_size: int


class _Load(Collector):
    """How many replicas there are, and what dying ones cost."""

    def __init__(self, engine: FrontEngine, view: Callable[[], View]) -> None:
        self._engine, self._view = engine, view

    def collect(self) -> Iterator[Metric]:
        losses = self._engine.losses
        yield GaugeMetricFamily("lmcourse_replicas", "Replicas that answer.", len(self._view().notes))
        yield CounterMetricFamily("lmcourse_answers_cut", "Answers whose replica died under them.", losses.num_lost)
        told = "Requests of these that another replica answered to the end."
        yield CounterMetricFamily("lmcourse_answers_resumed", told, losses.num_resumed)


def front_pipeline(task: FrontTask, view: Callable[[], View]) -> Pipeline:
    """The pipeline without an engine: names, template, tokenizer."""
    from lmcourse.models import load_spec

    folder = find_model(
        course_model() if task.model is None else task.model,
        revision=task.engine.revision,
        download_dir=task.engine.download_dir,
    )
    model = FrontModel(Tokenizer.from_folder(folder), load_spec(folder), _steady(view))
    # a pipeline touches no more of its engine than this, until somebody asks it for an answer of its own
    return Pipeline(cast("Engine", model), find_template(task.template, folder), folder.name)


def _steady(view: Callable[[], View]) -> Callable[[], View]:
    """The last view with a replica in it: sizes do not change when all of them are being replaced."""
    last = [view()]

    def steady() -> View:
        now = view()
        if now.notes:
            last[0] = now
        return last[0]

    return steady


def make_front(task: FrontTask, replicas: Replicas, view: Callable[[], View]) -> FastAPI:
    """The application in front of replicas; `view` has at least one of them when it is called first."""
    pipe = front_pipeline(task, view)
    routing = task.replicas.routing
    prefixes = routing == "prefix" or (routing == "auto" and task.engine.enable_prefix_caching)
    engine = FrontEngine(pipe, replicas, view, task.replicas, prefixes=prefixes)
    app = make_app(engine, task.server)
    service = service_of(app)
    service.grammars = CarriedGrammars(pipe.tokenizer, pipe.engine.spec.vocab, pipe.stop_ids)
    service.metrics.registry.register(_Load(engine, view))
    return app


async def _serve(task: FrontTask, ray: Any) -> None:
    """Answer until told to stop."""
    from ray import serve

    from lmcourse.replicas.deployment import board_name
    from lmcourse.replicas.ray_replicas import BoardWatch, RayReplicas

    watch = BoardWatch(ray.get_actor(board_name(task.replicas.app_name)))
    while not (await watch.look()).notes:
        await asyncio.sleep(0.1)
    watching = asyncio.create_task(watch.keep_looking())
    replicas = RayReplicas(serve.get_app_handle(task.replicas.app_name))
    app = make_front(task, replicas, lambda: watch.view)
    _say(LOADED)
    if not await asyncio.to_thread(sys.stdin.readline):
        return
    tls = None if task.tls is None else (Path(task.tls[0]), Path(task.tls[1]))
    server = Server(app, socket.socket(fileno=task.listener_fd), tls=tls, log_level=task.log_level)
    threading.Thread(target=_end_with_stdin, args=(server,), name="lmcourse-keeper", daemon=True).start()
    await server.listen(on_started=lambda: _say(READY))
    watching.cancel()


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _end_with_stdin(server: Server) -> None:
    sys.stdin.read()
    server.should_exit = True


def main() -> None:
    """Read the task, answer, end."""
    task = FrontTask.from_json(sys.stdin.readline())
    logging.basicConfig(level=task.log_level.upper())
    from lmcourse.replicas.ray_start import connect_to_ray

    with connect_to_ray(task.ray_address) as ray:
        asyncio.run(_serve(task, ray))


if __name__ == "__main__":
    main()
