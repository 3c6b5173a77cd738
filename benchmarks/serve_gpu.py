"""A server beside its own engine: throughput of 64 clients, and the first token of one.

    python benchmarks/serve_gpu.py --model dummy:internlm2-1_8b --output serve.json

Both sides get the same prompts (token ids) and lengths, in turns. Offline is `pipe.stream_infer`, all prompts at once,
64 of which run at a time; a client asks one thing after the other on its connection. The clients are light (bare
sockets in four processes), so that what is measured is the server.
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
from urllib.parse import urlsplit

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from lmcourse import GenerationConfig, Pipeline, TurbomindEngineConfig, pipeline
from lmcourse.serve.app import make_app
from lmcourse.serve.running import running


async def ask(address: tuple[str, int], bodies: list[bytes]) -> list[tuple[int, float]]:
    """One client: (tokens, seconds to the first) of each answer."""
    reader, writer = await asyncio.open_connection(*address)
    answers = []
    for body in bodies:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address[0]}\r\nContent-Type: application/json\r\n"
        asked_at, first, count = time.perf_counter(), 0.0, 0
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while (line := await reader.readline()) != b"data: [DONE]\n":
            if line.startswith(b"data: {"):
                tokens = json.loads(line[6:])["choices"][0]["token_ids"]
                first = first or (time.perf_counter() - asked_at if tokens else 0.0)
                count += len(tokens)
            elif not line:
                raise ConnectionError("the server has closed the connection")
        while await reader.readline() != b"0\r\n":  # the last chunk
            pass
        await reader.readline()
        answers.append((count, first))
    writer.close()
    return answers


def be_clients(url: str, pipe_end: Connection) -> None:
    """A process of clients: it gets a list of bodies for each, and reports all answers."""
    parts = urlsplit(url)
    address = parts.hostname or "", parts.port or 80

    async def main(clients: list[list[bytes]]) -> list[tuple[int, float]]:
        return [
            answer for told in await asyncio.gather(*(ask(address, bodies) for bodies in clients)) for answer in told
        ]

    while clients := pipe_end.recv():
        pipe_end.send(asyncio.run(main(clients)))


class Clients:
    """Several processes of them."""

    def __init__(self, url: str, num_processes: int) -> None:
        self._ends, self._processes = [], []
        for _ in range(num_processes):
            ours, theirs = multiprocessing.Pipe()
            self._ends.append(ours)
            self._processes.append(multiprocessing.get_context("spawn").Process(target=be_clients, args=(url, theirs)))
            self._processes[-1].start()

    def ask(self, clients: list[list[bytes]]) -> tuple[int, float, list[float]]:
        """(tokens, seconds, seconds to each first token)."""
        began, answers = time.perf_counter(), []
        busy = self._ends[: len(clients)]
        for number, end in enumerate(busy):
            end.send(clients[number :: len(busy)])
        for end in busy:
            answers += end.recv()
        return sum(count for count, _ in answers), time.perf_counter() - began, [first for _, first in answers]

    def close(self) -> None:
        """Let them go."""
        for end, process in zip(self._ends, self._processes, strict=True):
            end.send([])
            process.join()


def offline(pipe: Pipeline, prompts: list[list[int]], gen: GenerationConfig) -> tuple[int, float, float]:
    """Tokens, seconds, and seconds to the first token of any."""
    began, first, count = time.perf_counter(), 0.0, 0
    with pipe.stream_infer([{"prompt_token_ids": ids} for ids in prompts], gen) as pieces:
        for piece in pieces:
            first = first or time.perf_counter() - began
            count += len(piece.token_ids)
    return count, time.perf_counter() - began, first


def compare(pipe: Pipeline, clients: Clients, args: argparse.Namespace) -> dict[str, float]:
    """Medians over the rounds, the two sides in turns; the first round warms up."""
    rng = random.Random(args.seed)
    names = ("offline_tok_s", "served_tok_s", "offline_ttft_ms", "served_ttft_ms")
    rows: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.rounds + 1):
        count = args.clients * args.questions
        prompts = [[rng.randrange(4, pipe.engine.spec.vocab) for _ in range(args.prompt_len)] for _ in range(count)]
        gen = GenerationConfig(max_new_tokens=args.new_tokens, ignore_eos=True)
        tokens, seconds, _ = offline(pipe, prompts, gen)
        bodies = [make_body(pipe.name, prompt, args.new_tokens) for prompt in prompts]
        served_tokens, served_seconds, _ = clients.ask([bodies[i :: args.clients] for i in range(args.clients)])
        assert tokens == served_tokens == count * args.new_tokens
        short = GenerationConfig(max_new_tokens=4, ignore_eos=True)
        ttft = [offline(pipe, prompts[:1], short)[2] for _ in range(10)]
        served_ttft = clients.ask([[make_body(pipe.name, prompts[0], 4)] * 10])[2]
        if turn:
            found = tokens / seconds, served_tokens / served_seconds
            found += statistics.median(ttft) * 1e3, statistics.median(served_ttft) * 1e3
            for name, value in zip(names, found, strict=True):
                rows[name].append(value)
    return {name: round(statistics.median(values), 2) for name, values in rows.items()}


def make_body(model: str, prompt: list[int], new_tokens: int) -> bytes:
    """A request for exactly so many tokens, as a stream."""
    body = {"model": model, "prompt": prompt, "max_tokens": new_tokens, "ignore_eos": True, "stream": True}
    return json.dumps(body).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description="A server beside its own engine.")
    parser.add_argument("--model", default="dummy:internlm2-1_8b")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--questions", type=int, default=4, help="of each client, one after the other")
    parser.add_argument("--prompt-len", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    config = TurbomindEngineConfig(session_len=args.prompt_len + args.new_tokens + 1, max_batch_size=args.clients)
    with pipeline(args.model, backend_config=config) as pipe, running(make_app(pipe)) as server:
        clients = Clients(server.url, num_processes=4)
        result = compare(pipe, clients, args)
        clients.close()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    result["share"] = round(result["served_tok_s"] / result["offline_tok_s"], 3)
    told = {**result, "device": device, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
            "model": args.model, "clients": args.clients, "questions": args.questions, "prompt_len": args.prompt_len,
            "new_tokens": args.new_tokens}  # fmt: skip
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    if args.output:
        args.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
