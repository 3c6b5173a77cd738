"""Event streams without a server: what is sent, and what happens when either side breaks."""

from __future__ import annotations

import asyncio
import json
import logging
import random

import pytest

from lmcourse.errors import RequestFailedError
from lmcourse.serve.streaming import EventStream, while_connected


class Wire:
    """The server's side of a connection: collects what is sent; breaks, or tells of a disconnect, when it is to."""

    def __init__(self, breaks_after: int | None = None) -> None:
        self.breaks_after, self.left = breaks_after, asyncio.Event()
        self.bodies: list[bytes] = []
        self.ended = False

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message) -> None:
        await asyncio.sleep(0)
        if len(self.bodies) == self.breaks_after:
            raise BrokenPipeError("nobody there")
        if message["type"] == "http.response.body":
            self.bodies.append(message["body"])
            self.ended = not message["more_body"]


class Events:
    """Counts up; then ends, fails or waits for ever. Notes its own end."""

    def __init__(self, count, then=None) -> None:
        self.count, self.then, self.closed, self.num_ends = count, then, False, 0

    def end(self) -> None:
        self.num_ends += 1

    async def __call__(self):
        try:
            for number in range(self.count):
                yield {"number": number, "text": "é\n"}
            if self.then is not None:
                await self.then()
        finally:
            self.closed = True


def run(events, wire_of=Wire, after=None):
    """The wire, after the stream has ended; `after` is run beside it."""

    async def main():
        wire = wire_of()
        stream = EventStream(events(), events.end)
        beside = asyncio.ensure_future(after(wire)) if after else None
        await asyncio.wait_for(stream({"type": "http"}, wire.receive, wire.send), 10)
        if beside is not None:
            await beside
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1  # nothing is left behind
        return wire

    return asyncio.run(main())


def raiser(error):
    async def fail():
        raise error

    return fail


def test_events_are_lines_and_the_last_says_done() -> None:
    events = Events(3)
    wire = run(events)
    assert [json.loads(body.removeprefix(b"data: ")) for body in wire.bodies[:-1]] == [
        {"number": number, "text": "é\n"} for number in range(3)
    ]
    assert all(body.endswith(b"}\n\n") for body in wire.bodies[:-1])
    assert wire.bodies[-1] == b"data: [DONE]\n\n"
    assert wire.ended
    assert events.closed
    assert events.num_ends == 1


@pytest.mark.parametrize(
    "error", [OSError("no space left"), TimeoutError("too slow"), RequestFailedError("bad logits", request_ids=(1,))]
)
def test_an_error_of_the_events_is_told_and_logged(error, caplog) -> None:
    """An OSError, too: only one of sending means that nobody listens."""
    with caplog.at_level(logging.ERROR, logger="lmcourse.serve"):
        wire = run(Events(2, raiser(error)))
    assert len(wire.bodies) == 4
    assert json.loads(wire.bodies[2].removeprefix(b"data: "))["error"]["message"]
    assert wire.bodies[3] == b"data: [DONE]\n\n"
    assert wire.ended
    assert "a stream failed" in caplog.text


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_connection_that_breaks_ends_the_events_quietly(after, caplog) -> None:
    events = Events(5)
    wire = run(events, lambda: Wire(breaks_after=after))
    assert len(wire.bodies) == after
    assert events.num_ends == 1
    assert events.closed or after == 0  # broken before the first event: never begun
    assert not caplog.records


def test_a_reader_that_leaves_ends_events_that_wait(caplog) -> None:
    async def leave(wire):
        while len(wire.bodies) < 2:
            await asyncio.sleep(0)
        wire.left.set()

    events = Events(2, asyncio.Event().wait)
    wire = run(events, after=leave)
    assert not wire.ended
    assert events.closed
    assert events.num_ends == 1
    assert not caplog.records


def test_work_goes_on_only_while_somebody_waits() -> None:
    class Asked:
        def __init__(self, wire):
            self.receive = wire.receive

    async def answer(seconds):
        await asyncio.sleep(seconds)
        return "an answer"

    async def fail():
        await asyncio.sleep(0)
        raise TimeoutError("the work's own")

    async def main():
        wire = Wire()
        assert await while_connected(Asked(wire), answer(0)) == "an answer"
        with pytest.raises(TimeoutError, match="own"):
            await while_connected(Asked(wire), fail())
        asyncio.get_running_loop().call_soon(wire.left.set)
        assert await while_connected(Asked(wire), answer(60)) is None
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)  # the task goes on as if nothing had been

    asyncio.run(main())


def test_work_that_is_cancelled_from_outside_stays_cancelled() -> None:
    async def main():
        wire = Wire()

        class Asked:
            receive = wire.receive

        task = asyncio.create_task(while_connected(Asked, asyncio.sleep(60)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


class News:
    """An engine's answer: asked for, begun after some turns of the loop, closed in any case; then pieces, or an end."""

    def __init__(self, pauses) -> None:
        self.pauses, self.num_open = iter(pauses), 0

    async def pause(self) -> None:
        for _ in range(next(self.pauses)):
            await asyncio.sleep(0)

    def close(self) -> None:
        self.num_open = 0

    async def begin(self, stream):
        self.num_open = 1
        try:
            await self.pause()
        except BaseException:
            self.close()
            raise
        return EventStream(self.events(), self.close) if stream else await self.whole()

    async def whole(self):
        try:
            await self.pause()
            return "an answer"
        finally:
            self.close()

    async def events(self):
        try:
            for number in range(3):
                await self.pause()
                yield {"number": number}
        finally:
            await asyncio.sleep(0)  # as a stream of several answers does
            self.close()


async def ask(news, wire, stream):
    """What a route does with a request, up to its answer."""

    class Asked:
        receive = wire.receive

    answer = await while_connected(Asked, news.begin(stream))
    if isinstance(answer, EventStream):
        await answer({"type": "http"}, wire.receive, wire.send)
    return answer


async def leave(wire, num_turns):
    for _ in range(num_turns):
        await asyncio.sleep(0)
    wire.left.set()


async def check_leaving(stream, num_turns, pauses):
    """Whoever leaves after so many turns of the loop leaves nothing open, and no task."""
    news, wire = News(pauses), Wire()
    leaving = asyncio.create_task(leave(wire, num_turns))
    answer = await asyncio.wait_for(ask(news, wire, stream), 20)
    assert news.num_open == 0
    assert wire.ended or wire.left.is_set() or answer == "an answer"
    await leaving
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
    return wire.ended or answer == "an answer"


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_after_any_turn_of_the_loop_leaves_nothing(stream) -> None:
    async def main():
        return [await check_leaving(stream, num_turns, [2, 3, 0, 1]) for num_turns in range(60)]

    whole = asyncio.run(main())
    assert not whole[0]
    assert whole[-1]


def test_leaving_in_any_order_of_events_leaves_nothing() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)

    async def main():
        for _ in range(1500):
            pauses = [rng.choice((0, 0, 1, 2, 5, 1000)) for _ in range(4)]
            await check_leaving(rng.random() < 0.7, rng.randrange(40), pauses)

    asyncio.run(main())
