"""Dispatcher and TurnLock: several threads, one engine."""

import random
import threading
import time

import pytest

from lmcourse import GenerationConfig
from lmcourse.engine.dispatcher import TurnLock
from lmcourse.errors import EngineClosedError


def run_threads(*functions):
    """Run functions at the same time; the first error is raised here."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def test_threads_get_their_own_answers_and_share_batches(real):
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    lengths = [rng.randint(1, 20) for _ in range(6)]
    alone = [real(f"number {i}", max_new_tokens=n).token_ids for i, n in enumerate(lengths)]
    before = real.stats().num_steps
    answers = {}

    def ask(i):
        answers[i] = real(f"number {i}", max_new_tokens=lengths[i]).token_ids

    run_threads(*(lambda i=i: ask(i) for i in range(6)))
    assert [answers[i] for i in range(6)] == alone
    assert real.stats().num_steps - before <= sum(map(len, alone)) + 6
    real.engine.check()


def test_streams_of_two_threads_advance_together(fake):
    """With an unfair lock one thread would run all of its steps before the other saw a piece."""
    seen, seconds = dict.fromkeys("ab", 0), 10.0
    begin = threading.Barrier(2)
    fake.engine.before_step = lambda: time.sleep(seconds / 20000)

    def read(name, other):
        begin.wait()
        for _ in fake.stream_infer(name, GenerationConfig(max_new_tokens=20000)):
            seen[name] += 1
            if seen[other]:
                break

    run_threads(lambda: read("a", "b"), lambda: read("b", "a"))
    assert 0 < min(seen.values()) <= max(seen.values()) < 20000


def test_closing_while_another_thread_waits_ends_its_wait(fake):
    reached, closed = threading.Event(), threading.Event()

    def slow():
        reached.set()

    def ask():
        with pytest.raises(EngineClosedError):
            fake("hello", GenerationConfig(max_new_tokens=10**9))
        closed.set()

    def close():
        assert reached.wait(30)
        fake.close()

    fake.engine.before_step = slow
    run_threads(ask, close)
    assert closed.is_set()


def test_turn_lock_is_handed_on_in_order_of_arrival():
    lock, order = TurnLock(), []
    arrived = [threading.Event() for _ in range(4)]

    def enter(i):
        if i:
            assert arrived[i - 1].wait(30)
            while len(lock._gates) < i:
                pass
        arrived[i].set()
        with lock:
            order.append(i)

    with lock:
        threads = [threading.Thread(target=enter, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        while len(lock._gates) < 4:
            pass
    for thread in threads:
        thread.join(30)
    assert order == [0, 1, 2, 3]
    with lock:
        pass


def test_turn_lock_survives_an_interrupt_while_waiting(monkeypatch):
    lock = TurnLock()

    class Gate:
        def __init__(self):
            self.calls = 0

        def acquire(self):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt

        def release(self):
            raise AssertionError("handed to one who left")

    with lock:
        monkeypatch.setattr(threading, "Lock", Gate)
        with pytest.raises(KeyboardInterrupt):
            lock.__enter__()
        monkeypatch.undo()
    with lock:
        pass
