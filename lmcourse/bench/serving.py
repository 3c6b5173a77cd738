"""Load for a server: requests at a given rate or concurrency, to any address with OpenAI's interface.

    rate 4/s    |  |     | |         |  |       arrivals as of many people who know nothing of each other (Poisson)
    rate none   ||||||||                        all at once, max_concurrency of them in flight

An open loop (a rate) shows what users feel when the server is too slow: the queue grows. A closed loop (concurrency
alone) never asks more than the server answers, and so hides it.

Contract: each request is one ServedRequest, also if it failed; the same seed asks the same at the same moments.

Lesson: 5 (measuring a server)
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import asdict, dataclass
from typing import Any

from lmcourse.bench.latency import Promise, ServedRequest, ServingResult
from lmcourse.bench.report import describe_machine
from lmcourse.client import Connection, EventLoop
from lmcourse.errors import ConfigError, LmcourseError, ServerError

__all__ = ["Load", "measure_server"]

_WORDS = (
    "river stone window garden paper yellow morning quiet bridge apple winter letter number engine little round "
    "market silver forest table under seven music water story light castle simple open answer"
)


@dataclass(frozen=True)
class Load:
    """What is asked, and when. Prompts are words, since a stranger's tokenizer is not known here."""

    num_requests: int = 64
    request_rate: float | None = None  # per second; None: no waiting between requests
    max_concurrency: int = 64
    prompt_words: tuple[int, int] = (16, 128)  # least and most
    output_tokens: tuple[int, int] = (16, 128)
    ignore_eos: bool = True  # exactly so many tokens; not every server knows this field
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_requests", "max_concurrency"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is out of range", expected="1 or more", got=getattr(self, name), where=name)
        if self.request_rate is not None and not 0 < self.request_rate < float("inf"):
            raise ConfigError("request_rate is out of range", expected="above 0", got=self.request_rate)
        for name in ("prompt_words", "output_tokens"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ConfigError(f"{name} is not a range", expected="1 <= least <= most", got=(low, high), where=name)

    def bodies(self, model: str) -> list[dict[str, Any]]:
        """One request's body each."""
        draw = random.Random(self.seed)
        same = {"model": model, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        same |= {"ignore_eos": True} if self.ignore_eos else {}
        words, bodies = _WORDS.split(), []
        for _ in range(self.num_requests):
            prompt = " ".join(draw.choices(words, k=draw.randint(*self.prompt_words)))
            messages = [{"role": "user", "content": prompt}]
            bodies.append({**same, "messages": messages, "max_tokens": draw.randint(*self.output_tokens)})
        return bodies

    def moments(self) -> list[float]:
        """When each request is due, in seconds from the start."""
        if self.request_rate is None:
            return [0.0] * self.num_requests
        draw, now, moments = random.Random(self.seed + 1), 0.0, []
        for _ in range(self.num_requests):
            moments.append(now)
            now += draw.expovariate(self.request_rate)
        return moments


def measure_server(
    url: str, load: Load, *, api_key: str | None = None, model: str | None = None, promise: Promise | None = None
) -> ServingResult:
    """Ask, and wait for every answer; model None: the server's first. One request goes ahead and is not counted."""
    machine = describe_machine()
    loop = EventLoop("lmcourse load")  # of its own: a notebook's is busy with the cell that calls
    try:
        name, address, requests, seconds = loop.run(_run(url, load, api_key, model))
    finally:
        loop.close()
    return ServingResult(
        url=address, model=name, settings=asdict(load), requests=tuple(requests), seconds=seconds, promise=promise,
        machine=machine,
    )  # fmt: skip


async def _run(
    url: str, load: Load, api_key: str | None, model: str | None
) -> tuple[str, str, list[ServedRequest], float]:
    connection = Connection(url, api_key, max_connections=load.max_concurrency)
    try:
        name = model or (await connection.get("/v1/models"))["data"][0]["id"]
        bodies = load.bodies(name)
        warm_up = await _ask(connection, bodies[0], time.perf_counter())
        if warm_up.error is not None:
            raise ServerError("the server does not answer such requests", got=warm_up.error, where=connection.url)
        places = asyncio.Semaphore(load.max_concurrency)
        started = time.perf_counter()

        async def one(body: dict[str, Any], moment: float) -> ServedRequest:
            await asyncio.sleep(max(0.0, started + moment - time.perf_counter()))
            async with places:
                return await _ask(connection, body, started)

        requests = await asyncio.gather(*map(one, bodies, load.moments()))
        return name, connection.url, requests, time.perf_counter() - started
    finally:
        await connection.close()


async def _ask(connection: Connection, body: dict[str, Any], origin: float) -> ServedRequest:
    """One request, with the times at which its text arrived."""
    sent_at = time.perf_counter() - origin
    arrivals: list[float] = []
    usage: dict[str, int] = {}
    error = None
    try:
        async for chunk in connection.stream("/v1/chat/completions", body):
            now = time.perf_counter() - origin
            usage = chunk.get("usage") or usage
            if any(_has_news(choice) for choice in chunk.get("choices") or ()):
                arrivals.append(now)
    except LmcourseError as failure:
        error = failure.what
    if error is None and not arrivals:
        error = "the answer was empty"
    return ServedRequest(
        sent_at=sent_at,
        arrivals=tuple(arrivals),
        num_prompt_tokens=usage.get("prompt_tokens", 0),
        num_output_tokens=usage.get("completion_tokens", len(arrivals)),
        error=error,
    )


def _has_news(choice: dict[str, Any]) -> bool:
    return bool((choice.get("delta") or {}).get("content") or choice.get("token_ids"))
