"""A server beside its own engine: throughput of 64 clients, and the first token of one.

    python benchmarks/serve_gpu.py --model dummy:internlm2-1_8b --output serve.json

Both sides get the same prompts (token ids) and lengths, in turns; clients run in a process of their own. Offline is
`pipe(...)`, all prompts at once; the first token is that of `pipe.stream_infer` and of a stream over HTTP.
On a machine without FastAPI and uvicorn carry their wheels: fastapi starlette uvicorn pydantic pydantic-core
annotated-types typing-inspection llguidance, and put them on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import platform
import random
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from lmcourse import GenerationConfig, Pipeline, TurbomindEngineConfig, pipeline
from lmcourse.serve.app import make_app
from lmcourse.serve.running import running


async def stream(http: httpx.AsyncClient, body: dict[str, object]) -> tuple[int, float]:
    """Tokens of one answer, and seconds to the first."""
    asked_at, first, count = time.perf_counter(), 0.0, 0
    async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                tokens = json.loads(line[6:])["choices"][0]["token_ids"]
                first = first or (time.perf_counter() - asked_at if tokens else 0.0)
                count += len(tokens)
    return count, first


def be_clients(url: str, pipe_end: Connection) -> None:
    """A process that sends what it is told to, all at once, and reports tokens, seconds and first tokens."""

    async def ask(http: httpx.AsyncClient, bodies: list[dict[str, object]]) -> tuple[int, float, list[float]]:
        began = time.perf_counter()
        answers = await asyncio.gather(*(stream(http, body) for body in bodies))
        return sum(n for n, _ in answers), time.perf_counter() - began, [first for _, first in answers]

    async def main() -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
            while bodies := await asyncio.to_thread(pipe_end.recv):
                pipe_end.send(await ask(http, bodies))

    asyncio.run(main())


def offline(pipe: Pipeline, prompts: list[list[int]], gen: GenerationConfig) -> tuple[int, float, float]:
    """Tokens, seconds, and seconds to the first token of any."""
    began, first, count = time.perf_counter(), 0.0, 0
    with pipe.stream_infer([{"prompt_token_ids": ids} for ids in prompts], gen) as pieces:
        for piece in pieces:
            first = first or time.perf_counter() - began
            count += len(piece.token_ids)
    return count, time.perf_counter() - began, first


def compare(pipe: Pipeline, clients: Connection, args: argparse.Namespace) -> dict[str, float]:
    """Medians over the rounds, the two sides in turns; the first round warms up."""
    rng = random.Random(args.seed)
    rows: dict[str, list[float]] = {
        "offline_tok_s": [],
        "served_tok_s": [],
        "offline_ttft_ms": [],
        "served_ttft_ms": [],
    }
    for turn in range(args.rounds + 1):
        prompts = [
            [rng.randrange(4, pipe.engine.spec.vocab) for _ in range(args.prompt_len)] for _ in range(args.clients)
        ]
        bodies = [
            {"model": pipe.name, "prompt": ids, "max_tokens": args.new_tokens, "ignore_eos": True} for ids in prompts
        ]
        gen = GenerationConfig(max_new_tokens=args.new_tokens, ignore_eos=True)
        tokens, seconds, _ = offline(pipe, prompts, gen)
        clients.send(bodies)
        served_tokens, served_seconds, _ = clients.recv()
        assert tokens == served_tokens == args.clients * args.new_tokens
        short = GenerationConfig(max_new_tokens=4, ignore_eos=True)
        ttft = [offline(pipe, prompts[:1], short)[2] for _ in range(10)]
        served_ttft = []
        for _ in range(10):
            clients.send([{**bodies[0], "max_tokens": 4}])
            served_ttft += clients.recv()[2]
        if turn:
            rows["offline_tok_s"].append(tokens / seconds)
            rows["served_tok_s"].append(served_tokens / served_seconds)
            rows["offline_ttft_ms"].append(statistics.median(ttft) * 1e3)
            rows["served_ttft_ms"].append(statistics.median(served_ttft) * 1e3)
    return {name: round(statistics.median(values), 2) for name, values in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="A server beside its own engine.")
    parser.add_argument("--model", default="dummy:internlm2-1_8b")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--prompt-len", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    config = TurbomindEngineConfig(session_len=args.prompt_len + args.new_tokens + 1, max_batch_size=args.clients)
    ours, theirs = multiprocessing.Pipe()
    with pipeline(args.model, backend_config=config) as pipe, running(make_app(pipe)) as server:
        process = multiprocessing.get_context("spawn").Process(target=be_clients, args=(server.url, theirs))
        process.start()
        result = compare(pipe, ours, args)
        ours.send([])
        process.join()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    result["share"] = round(result["served_tok_s"] / result["offline_tok_s"], 3)
    told = {**result, "device": device, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
            "model": args.model, "clients": args.clients, "prompt_len": args.prompt_len,
            "new_tokens": args.new_tokens}  # fmt: skip
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    if args.output:
        args.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
