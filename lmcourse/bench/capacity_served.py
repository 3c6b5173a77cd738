"""The same class over HTTP: its students ask a running server, and what they see is timed where they sit.

Prompts are token ids on /v1/completions, so that they have exactly as many tokens as in the simulation, and answers
ignore ends of sequence. All have one key, so that to the server they are one account. What comes on top of the engine
is the way there: HTTP, JSON, text, and the students' own machine, if all of them sit on one.

Contract: one question that fails ends the class with its error: a class without it would be another one.

Lesson: 5 (how many students)
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from lmcourse.bench.capacity import (
    ClassLoad,
    ClassResult,
    Visit,
    draw_question,
    draw_start,
    draw_thought,
    student_draws,
)
from lmcourse.bench.capacity_machine import MachineUse
from lmcourse.client import Connection, EventLoop
from lmcourse.errors import ServerError

__all__ = ["run_served_class"]

_PLAIN_IDS = range(100, 200)  # in every vocabulary, special in none that is known


def run_served_class(load: ClassLoad, url: str, *, api_key: str | None = None, model: str | None = None) -> ClassResult:
    """model None: the server's first. ServerError if a question is not answered as asked."""
    loop = EventLoop("lmcourse class")  # of its own: a notebook's is busy with the cell that calls
    try:
        visits = loop.run(_run(load, url, api_key, model))
    finally:
        loop.close()
    return ClassResult.of(load, visits, MachineUse(0.0, 0, 0, 0, 0, 0))


async def _run(load: ClassLoad, url: str, api_key: str | None, model: str | None) -> list[Visit]:
    connection = Connection(url, api_key, max_connections=load.students + load.flood + 1)
    try:
        name = model or (await connection.get("/v1/models"))["data"][0]["id"]
        await _ask(connection, name, (0, 4, 4), time.perf_counter())  # wakes it up, and counts for nothing
        origin = time.perf_counter()
        students = [
            asyncio.ensure_future(_attend(connection, name, load, student, origin))
            for student in range(load.students + load.flood)
        ]
        try:
            return [visit for visits in await asyncio.gather(*students) for visit in visits]
        finally:
            for student in students:
                student.cancel()
    finally:
        await connection.close()


async def _attend(connection: Connection, model: str, load: ClassLoad, student: int, origin: float) -> list[Visit]:
    """One student's class."""
    draw = student_draws(load)[student]
    moment = draw_start(load, student, draw)
    visits: list[Visit] = []
    while not visits or moment < load.seconds:
        await asyncio.sleep(max(0.0, origin + moment - time.perf_counter()))
        visits.append(await _ask(connection, model, (student, *draw_question(load, draw)), origin))
        moment = visits[-1].ended_at + draw_thought(load, student, draw)
    return visits


async def _ask(connection: Connection, model: str, question: tuple[int, int, int], origin: float) -> Visit:
    student, prompt, answer = question
    ids = random.Random(f"{student} {prompt}").choices(_PLAIN_IDS, k=prompt)
    body: dict[str, Any] = {"model": model, "prompt": ids, "max_tokens": answer, "temperature": 0, "ignore_eos": True}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    asked_at = time.perf_counter() - origin
    arrivals: list[float] = []
    got = 0
    async for chunk in connection.stream("/v1/completions", body):
        if chunk.get("choices"):
            arrivals.append(time.perf_counter() - origin)
        got = (chunk.get("usage") or {}).get("completion_tokens", got)
    if got != answer or not arrivals:
        raise ServerError("the server gave an answer of another length", expected=answer, got=got, where=connection.url)
    return Visit(student, asked_at, arrivals[0], arrivals[-1], prompt, answer)
