"""Courier: everything arrives, in order, in rounds that leave the loop as much rest as work."""

from __future__ import annotations

import asyncio
import threading
import time

from lmcourse.config import GenerationConfig
from lmcourse.engine.answer import StepOutput
from lmcourse.engine.courier import Courier
from lmcourse.engine.token_stream import Order, TokenStream


def make_streams(count):
    return [TokenStream(Order([1], GenerationConfig()), lambda stream: None) for _ in range(count)]


async def read(stream, work_seconds=0.0):
    """(tokens, pieces) of one answer, whose every piece costs the loop so much work."""
    tokens, pieces = [], 0
    async for output in stream:
        tokens += output.token_ids
        pieces += 1
        time.sleep(work_seconds)
    return tokens, pieces


def bring_all(courier, streams, count):
    for number in range(count):
        reason = "length" if number == count - 1 else None
        courier.bring([(stream, StepOutput(0, [number], "", reason)) for stream in streams])


def run(num_streams, count, *, work=0.0):
    async def main():
        streams, courier = make_streams(num_streams), Courier(asyncio.get_running_loop())
        thread = threading.Thread(target=bring_all, args=(courier, streams, count))
        thread.start()
        results = await asyncio.gather(*(read(stream, work) for stream in streams))
        thread.join()
        return results

    return asyncio.run(main())


def test_everything_arrives_in_order():
    for tokens, _ in run(5, 200):
        assert tokens == list(range(200))


def test_a_busy_loop_gets_fewer_larger_pieces():
    for tokens, pieces in run(4, 100, work=0.001):
        assert tokens == list(range(100))
        assert pieces < 60


def test_the_last_piece_needs_no_further_step():
    """Nothing is brought after it, and the loop rests when it comes."""
    ((tokens, _),) = run(1, 2, work=0.02)
    assert tokens == [0, 1]


def test_a_closed_loop_is_left_alone():
    loop = asyncio.new_event_loop()
    courier = Courier(loop)
    loop.close()
    courier.bring([(object(), StepOutput(0, [1], ""))])
