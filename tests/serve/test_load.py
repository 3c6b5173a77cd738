"""Many clients at once: none lost, none mixed up, every stream complete and equal to the offline greedy answer."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from itertools import islice
from pathlib import Path

import httpx
import pytest

sys.path.append(str(Path(__file__).parents[1]))

from clear_answers import is_clear

from lmcourse import GenerationConfig, TurbomindEngineConfig, pipeline
from lmcourse.serve.app import make_app
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings

NUM_CLIENTS = 200
LONGEST = 24
WORDS = ["apple", "river", "lamp", "stone", "cloud", "paper", "green", "quick"]


def make_prompts(rng, count):
    """Short requests of many kinds, most of them different."""
    kinds = (
        lambda: f"What is {rng.randrange(10, 99)} + {rng.randrange(10, 99)}?",
        lambda: f"Sort these words: {', '.join(rng.sample(WORDS, 4))}",
        lambda: f"My name is {rng.choice(WORDS).title()} and I am {rng.randrange(10, 90)}.",
        lambda: f"上海是 {rng.randrange(1000)}",
    )
    return [rng.choice(kinds)() for _ in range(count)]


async def read_stream(http, prompt):
    """The text of a streamed answer, its reason, and whether it ended with [DONE]."""
    body = {"model": "tiny-chat", "messages": prompt, "max_tokens": LONGEST, "stream": True}
    text, reason, done = "", None, False
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                done = True
            elif line:
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                text += choice["delta"].get("content", "")
                reason = choice["finish_reason"] or reason
    return text, reason, done


async def ask_all(url, prompts):
    """NUM_CLIENTS clients share the prompts, each asking one after the other."""
    results = [None] * len(prompts)
    left = iter(enumerate(prompts))
    limits = httpx.Limits(max_connections=NUM_CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:

        async def client():
            for number, prompt in left:
                results[number] = await read_stream(http, prompt)

        await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
    return results


def resident_mib():
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def run_load(rng, rounds, per_round):
    """Rounds of requests, each checked; memory after each, in MiB."""
    config = TurbomindEngineConfig(session_len=256, max_batch_size=64, cache_max_entry_count=256)
    memory = []
    with pipeline("tiny-chat", backend_config=config) as pipe:
        app = make_app(pipe, ServerSettings(max_queue=NUM_CLIENTS))
        with running(app) as server:
            for _ in range(rounds):
                prompts = make_prompts(rng, per_round)
                distinct = list(dict.fromkeys(prompts))
                offline = pipe(distinct, GenerationConfig(max_new_tokens=LONGEST, logprobs=2))
                told = zip(distinct, offline, strict=True)
                expected = {p: (r.text, r.finish_reason, True) for p, r in told if is_clear(r)}
                assert len(expected) > len(distinct) / 2
                results = asyncio.run(ask_all(server.url, prompts))
                assert all(done for _, _, done in results)
                wrong = [(p, r) for p, r in zip(prompts, results, strict=True) if r != expected.get(p, r)]
                assert not wrong, list(islice(wrong, 3))
                assert server.service.engine.num_open == 0
                stats = pipe.stats()
                assert stats.num_free_blocks == stats.num_blocks
                with pipe.dispatcher._lock:
                    pipe.engine.check()
                memory.append(resident_mib())
    return memory


def test_two_hundred_clients_at_once(rng) -> None:
    run_load(rng, rounds=1, per_round=200)


@pytest.mark.soak
def test_two_thousand_requests_of_two_hundred_clients(rng) -> None:
    memory = run_load(rng, rounds=5, per_round=400)
    print("MiB after each 400 requests:", [round(mib) for mib in memory])
    assert memory[-1] - memory[1] < 24, memory
