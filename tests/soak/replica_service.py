"""`lmcourse serve replicas` as a user starts it, its processes by name, and fifty clients at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ENGINE = ("--max-batch-size", "64", "--session-len", "1024", "--cache-max-entry-count", "1500")


@dataclass
class Service:
    """A running command; `lines` is what it has said so far."""

    process: subprocess.Popen[str]
    app_name: str
    lines: list[str] = field(default_factory=list)

    def wait_for(self, pattern: str, seconds: float = 300) -> re.Match[str]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} was never said: {self.lines}")

    @property
    def url(self) -> str:
        return self.wait_for(r"listening on (http://\S+?),")[1]

    @property
    def ray_address(self) -> str:
        return self.wait_for(r"Ray is at (\S+)")[1]

    def replica_pids(self) -> list[int]:
        return pids_of(f"ray::ServeReplica:{self.app_name}:engine")

    def front_pid(self) -> int:
        """Of the one that answers: the spare is younger."""
        return self.front_pids()[0]

    def front_pids(self) -> list[int]:
        return pids_of("lmcourse.replicas.front", parent=self.process.pid)


def pids_of(*words: str, parent: int | None = None) -> list[int]:
    """Processes whose command line has all these words."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if all(word in line for word in words) and (parent is None or ppid == parent):
                found.append(int(folder.name))
    return sorted(found)


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[Service]:
    app_name = f"test-{secrets.token_hex(4)}"
    command = [sys.executable, "-m", "lmcourse", "serve", "replicas", "tiny-chat", "--server-port", "0"]
    command += ["--app-name", app_name, "--grace", "10", *ENGINE, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    service = Service(process, app_name)
    reader = threading.Thread(target=_read, args=(process, service.lines), daemon=True)
    reader.start()
    try:
        assert service.url
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(10)
        process.stdout.close()
        print("\n".join(service.lines))


def _read(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())


@dataclass
class Told:
    """What one client heard."""

    prompt: str
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    reason: str | None = None
    error: dict | None = None  # the server's own words
    done: bool = False
    broke: str | None = None  # the connection did


def body_of(prompt: str, num_tokens: int, **more: object) -> dict:
    return {
        "model": "tiny-chat",
        "prompt": prompt,
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
        **more,
    }


async def ask_streaming(client: httpx.AsyncClient, prompt: str, num_tokens: int, begun: list[int]) -> Told:
    told = Told(prompt)
    try:
        async with client.stream("POST", "/v1/completions", json=body_of(prompt, num_tokens, stream=True)) as response:
            if response.status_code != 200:
                told.error = json.loads(await response.aread())["error"]
                return told
            async for line in response.aiter_lines():
                hear(told, line)
                if len(told.token_ids) and len(begun) < 10_000:
                    begun.append(1)
    except httpx.HTTPError as error:
        told.broke = type(error).__name__
    return told


def hear(told: Told, line: str) -> None:
    if not line.startswith("data: "):
        return
    if line == "data: [DONE]":
        told.done = True
        return
    event = json.loads(line[6:])
    if "error" in event:
        told.error = event["error"]
        return
    for choice in event["choices"]:
        told.token_ids += choice["token_ids"]
        told.text += choice["text"]
        told.reason = choice["finish_reason"]


async def ask_whole(client: httpx.AsyncClient, prompt: str, num_tokens: int) -> Told:
    told = Told(prompt)
    try:
        response = await client.post("/v1/completions", json=body_of(prompt, num_tokens))
    except httpx.HTTPError as error:
        told.broke = type(error).__name__
        return told
    content = response.json()
    if response.status_code != 200:
        told.error = content["error"]
        return told
    (choice,) = content["choices"]
    told.token_ids, told.text, told.reason, told.done = (
        choice["token_ids"],
        choice["text"],
        choice["finish_reason"],
        True,
    )
    return told


def ask_together(url: str, prompts: list[str], num_tokens: int, on_begun: object, num_whole: int = 0) -> list[Told]:
    """All prompts at once, the last `num_whole` without streaming; on_begun is called once some answers have begun."""

    async def run() -> list[Told]:
        begun: list[int] = []
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=200, limits=limits, trust_env=False) as client:
            streaming = len(prompts) - num_whole
            tasks = [
                asyncio.create_task(
                    ask_streaming(client, prompt, num_tokens, begun)
                    if i < streaming
                    else ask_whole(client, prompt, num_tokens)
                )
                for i, prompt in enumerate(prompts)
            ]
            while len(begun) < 2 * len(prompts) and not all(task.done() for task in tasks):
                await asyncio.sleep(0.01)
            await asyncio.to_thread(on_begun)
            return await asyncio.gather(*tasks)

    return asyncio.run(run())
