"""AsyncEngine: many tasks, one stepping thread; nobody waits for a slow reader, and who leaves takes nothing along."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
from engine_fakes import assert_same_greedy

from lmcourse.bundled import model_path
from lmcourse.config import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import AsyncEngine, Engine, Order, async_engine
from lmcourse.errors import EngineClosedError, PromptError, RequestFailedError

CONFIG = TurbomindEngineConfig(session_len=256, max_batch_size=8, cache_max_entry_count=64)


@pytest.fixture(scope="module")
def engine():
    with Engine.from_folder(model_path("tiny-chat"), CONFIG, device="cpu") as made:
        yield made


def random_prompts(rng: random.Random, count: int) -> list[list[int]]:
    return [[rng.randrange(300, 4000) for _ in range(rng.randrange(1, 40))] for _ in range(count)]


def offline(engine: Engine, prompt: list[int], num_tokens: int) -> list[int]:
    engine.add(prompt, GenerationConfig(max_new_tokens=num_tokens, ignore_eos=True))
    ids: list[int] = []
    while engine.has_work:
        for output in engine.step():
            ids += output.token_ids
    return ids


async def read(served: AsyncEngine, prompt: list[int], num_tokens: int, pause: float = 0.0) -> list[int]:
    gen = GenerationConfig(max_new_tokens=num_tokens, ignore_eos=True)
    ids: list[int] = []
    async for output in served.generate(prompt, gen):
        ids += output.token_ids
        await asyncio.sleep(pause)
    assert output.finish_reason == "length"
    return ids


def all_free(engine: Engine) -> bool:
    stats = engine.stats()
    return stats.num_free_blocks == stats.num_blocks and not stats.num_running and not stats.num_waiting


async def until(condition, seconds: float = 5.0) -> None:
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition never came to hold")


def test_generate_gives_each_task_its_own_answer(engine, rng) -> None:
    prompts = random_prompts(rng, 20)
    lengths = [rng.randrange(1, 20) for _ in prompts]
    wanted = [offline(engine, prompt, n) for prompt, n in zip(prompts, lengths, strict=True)]

    async def main() -> list[list[int]]:
        served = AsyncEngine(engine)
        pauses = [rng.choice([0.0, 0.0, 0.02]) for _ in prompts]
        answers = await asyncio.gather(
            *(read(served, p, n, s) for p, n, s in zip(prompts, lengths, pauses, strict=True))
        )
        await served.aclose()
        return answers

    assert_same_greedy(engine._runner.decoder, prompts, asyncio.run(main()), wanted)
    engine.check()
    assert all_free(engine)


def test_generate_cancelled_frees_the_blocks(engine, monkeypatch) -> None:
    step, cancelled = engine.step, threading.Event()

    def waiting_step():
        assert engine.stats().num_running < 2 or cancelled.wait(60)
        return step()

    monkeypatch.setattr(engine, "step", waiting_step)

    async def main() -> None:
        served = AsyncEngine(engine)
        task = asyncio.create_task(read(served, [400] * 20, 200))
        other = asyncio.create_task(read(served, [500] * 20, 30))
        await until(lambda: engine.stats().num_running == 2)
        task.cancel()
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await other) == 30
        await until(lambda: all_free(engine))
        await served.aclose()

    asyncio.run(main())
    engine.check()


def test_generate_left_by_break_is_aborted(engine) -> None:
    async def main() -> None:
        served = AsyncEngine(engine)
        async for _ in served.generate([400] * 5, GenerationConfig(max_new_tokens=200, ignore_eos=True)):
            break
        await until(lambda: all_free(engine) and served.num_open == 0)
        await served.aclose()

    asyncio.run(main())


def test_slow_reader_stalls_nobody_and_gets_larger_pieces(engine) -> None:
    async def main() -> None:
        served = AsyncEngine(engine)
        slow = served.start(Order([400] * 5, GenerationConfig(max_new_tokens=60, ignore_eos=True)))
        await slow.accepted()
        assert len(await read(served, [500] * 5, 60)) == 60  # while nobody reads the other
        await until(lambda: all_free(engine))
        outputs = [output async for output in slow]
        assert len(outputs) == 1
        assert len(outputs[0].token_ids) == 60
        assert served.num_open == 0
        await served.aclose()

    asyncio.run(main())


def test_burst_on_an_idle_engine_shares_its_first_step(engine, monkeypatch) -> None:
    sizes: list[int] = []
    step = engine.step

    def counting_step():
        stats = engine.stats()
        sizes.append(stats.num_running + stats.num_waiting)
        return step()

    async def ask(served: AsyncEngine, num_passes: int) -> list[int]:
        for _ in range(num_passes):  # each a pass of the loop behind the one before
            await asyncio.sleep(0)
        return await read(served, [300 + num_passes], 3)

    async def main() -> None:
        served = AsyncEngine(engine)
        await read(served, [300], 1)  # the stepping thread is there, and sleeps
        await asyncio.sleep(0.01)
        sizes.clear()
        await asyncio.gather(*(ask(served, i) for i in range(3)))
        await served.aclose()

    monkeypatch.setattr(engine, "step", counting_step)
    monkeypatch.setattr(async_engine, "_QUIET_SECONDS", 0.2)  # a loop that is kept waiting is not late
    monkeypatch.setattr(async_engine, "_BURST_SECONDS", 60.0)
    asyncio.run(main())
    assert sizes[0] == 3


def test_wrong_prompt_raises_in_its_own_task_only(engine) -> None:
    async def main() -> None:
        served = AsyncEngine(engine)
        results = await asyncio.gather(
            read(served, [], 5), read(served, [7] * 500, 5), read(served, [400], 5), return_exceptions=True
        )
        assert isinstance(results[0], PromptError)
        assert isinstance(results[1], PromptError)
        assert len(results[2]) == 5
        await served.aclose()

    asyncio.run(main())


class OnlyEven:
    """Allows even ids; fails at the third token if told to."""

    def __init__(self, vocab: int, fails: bool = False) -> None:
        import numpy as np

        self.mask = np.arange(vocab) % 2 == 0
        self.fails = fails

    def allowed(self, output_ids):
        if self.fails and len(output_ids) == 2:
            raise ValueError("no such state")
        return self.mask


def test_mask_limits_its_request_and_its_error_ends_no_other(engine) -> None:
    async def main() -> None:
        served = AsyncEngine(engine)
        gen = GenerationConfig(max_new_tokens=12, ignore_eos=True)

        async def collect(mask) -> list[int]:
            return [i async for output in served.generate([400, 401], gen, mask=mask) for i in output.token_ids]

        vocab = engine.spec.vocab
        even, failed, free = await asyncio.gather(
            collect(OnlyEven(vocab)), collect(OnlyEven(vocab, fails=True)), collect(None), return_exceptions=True
        )
        assert len(even) == len(free) == 12
        assert all(token_id % 2 == 0 for token_id in even)
        assert isinstance(failed, RequestFailedError)
        assert "no such state" in str(failed)
        await until(lambda: all_free(engine))
        await served.aclose()
        assert free == offline(engine, [400, 401], 12)

    asyncio.run(main())
    engine.check()


@pytest.mark.parametrize("grace", [0.0, 30.0])
def test_aclose_finishes_or_returns_what_runs(engine, grace) -> None:
    async def main() -> None:
        served = AsyncEngine(engine)
        stream = served.start(Order([400] * 5, GenerationConfig(max_new_tokens=150, ignore_eos=True)))
        await stream.accepted()

        async def collect():
            return [output async for output in stream]

        reading = asyncio.create_task(collect())
        await until(lambda: engine.stats().num_running == 1)
        await served.aclose(grace)
        outputs = await reading
        assert outputs[-1].finish_reason == ("length" if grace else "abort")
        assert (sum(len(output.token_ids) for output in outputs) == 150) is bool(grace)
        with pytest.raises(EngineClosedError):
            await read(served, [400], 1)
        await served.aclose()

    asyncio.run(main())
    assert all_free(engine)
    engine.check()


def test_closed_engine_fails_its_readers_instead_of_hanging() -> None:
    async def main() -> None:
        engine = Engine.from_folder(model_path("tiny-chat"), CONFIG, device="cpu")
        served = AsyncEngine(engine)
        await read(served, [400], 3)
        engine.close()
        with pytest.raises(EngineClosedError):
            await read(served, [400], 3)
        await served.aclose()

    asyncio.run(main())


def test_loads_counts_what_each_account_has(engine, rng) -> None:
    gen = GenerationConfig(max_new_tokens=40, ignore_eos=True)

    async def scenario() -> None:
        served = AsyncEngine(engine)
        orders = [Order([5] * 70, gen, account=name) for name in ["Ada"] * 7 + ["Ben"] * 3 + [None]]
        streams = [served.start(order) for order in orders]
        assert sum(load.num_waiting + load.num_running for load in served.loads().values()) == 11
        await streams[7].__anext__()
        loads = served.loads()
        assert {name: load.num_running + load.num_waiting for name, load in loads.items()} == {
            "Ada": 7, "Ben": 3, None: 1,
        }  # fmt: skip
        assert (loads["Ada"].num_running, loads["Ben"].num_running) == (7, 1)
        assert loads["Ada"].num_blocks == 14
        assert loads["Ben"].num_tokens >= 3 * 70 + 1
        for stream in streams:
            stream.close()
        await served.aclose()
        assert served.loads() == {}

    asyncio.run(scenario())
