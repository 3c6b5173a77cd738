"""Courier: everything arrives, in order, in rounds that leave the loop as much rest as work."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lmcourse.config import GenerationConfig
from lmcourse.engine import courier as couriers
from lmcourse.engine.answer import StepOutput
from lmcourse.engine.courier import Courier
from lmcourse.engine.token_stream import Order, TokenStream


def make_streams(count):
    return [TokenStream(Order([1], GenerationConfig()), lambda stream: None) for _ in range(count)]


async def read(stream, work):
    """(tokens, pieces) of one answer; work(tokens so far) holds the loop up after every piece."""
    tokens, pieces = [], 0
    async for output in stream:
        tokens += output.token_ids
        pieces += 1
        work(len(tokens))
    return tokens, pieces


def bring_all(courier, streams, brought):
    count = len(brought)
    for number in range(count):
        reason = "length" if number == count - 1 else None
        courier.bring([(stream, StepOutput(0, [number], "", reason)) for stream in streams])
        brought[number].set()


def run(num_streams, count, *, ahead=0):
    """ahead: after each piece, the loop is held up until so many more tokens have been brought."""
    brought = [threading.Event() for _ in range(count)]

    def work(got):
        if ahead:
            assert brought[min(got + ahead, count) - 1].wait(60)

    async def main():
        streams, courier = make_streams(num_streams), Courier(asyncio.get_running_loop())
        thread = threading.Thread(target=bring_all, args=(courier, streams, brought))
        thread.start()
        results = await asyncio.gather(*(read(stream, work) for stream in streams))
        thread.join()
        return results

    return asyncio.run(main())


def test_everything_arrives_in_order():
    for tokens, _ in run(5, 200):
        assert tokens == list(range(200))


def test_a_busy_loop_gets_fewer_larger_pieces():
    for tokens, pieces in run(4, 100, ahead=4):
        assert tokens == list(range(100))
        assert pieces <= 1 + 100 / 4


def test_the_last_piece_needs_no_further_step():
    """Nothing is brought after it, and the loop rests when it comes."""
    ((tokens, _),) = run(1, 2, ahead=1)
    assert tokens == [0, 1]


def test_a_closed_loop_is_left_alone():
    loop = asyncio.new_event_loop()
    courier = Courier(loop)
    loop.close()
    courier.bring([(object(), StepOutput(0, [1], ""))])


class HandLoop:
    """A loop turned by hand, which notes how long a rest is asked for."""

    def __init__(self) -> None:
        self.calls, self.rests = [], []

    def call_soon(self, call, *arguments) -> None:
        self.calls.append((call, arguments))

    call_soon_threadsafe = call_soon

    def call_later(self, seconds, call) -> None:
        self.rests.append(seconds)
        self.calls.append((call, ()))

    def turn(self) -> None:
        call, arguments = self.calls.pop(0)
        call(*arguments)


class Reader:
    def __init__(self) -> None:
        self.tokens = []

    def receive(self, outputs) -> None:
        self.tokens += [token for output in outputs for token in output.token_ids]


@pytest.mark.parametrize(("took", "rest"), [(0.01, 0.01), (60.0, couriers._LONGEST_REST_SECONDS)])
@pytest.mark.parametrize("is_out", [True, False])
def test_a_round_in_which_the_machine_stood_still_is_no_reason_to_rest(monkeypatch, took, rest, is_out):
    """The next letter comes while the courier is out, or when it is back."""
    now, loop, reader = [0.0], HandLoop(), Reader()
    monkeypatch.setattr(couriers.time, "perf_counter", lambda: now[0])
    courier = Courier(loop)
    courier.bring([(reader, StepOutput(0, [1], ""))])
    loop.turn()  # sets out, and delivers
    if is_out:
        courier.bring([(reader, StepOutput(0, [2], ""))])
    now[0] += took
    loop.turn()  # comes back
    if not is_out:
        courier.bring([(reader, StepOutput(0, [2], ""))])
        loop.turn()
    assert loop.rests == pytest.approx([rest])
    loop.turn()
    assert reader.tokens == [1, 2]
