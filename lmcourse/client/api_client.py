"""APIClient: the class that LMDeploy 0.3.0 gave to Python programs, with its names, defaults and answers.

Each method is one endpoint; what it yields are the server's own JSON objects, one if stream is off. New programs are
better off with Client, or with the openai package.

Lesson: 5 (talking to the server from Python)
"""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any

from lmcourse.client.background import EventLoop
from lmcourse.client.connection import Connection
from lmcourse.errors import ConfigError

__all__ = ["APIClient"]

Messages = str | list[dict[str, Any]]


class APIClient:
    """A connection to a server; nothing is asked before a method is called."""

    def __init__(self, api_server_url: str, api_key: str | None = None, **_: Any) -> None:
        self._connection = Connection(api_server_url, api_key)
        self._loop = EventLoop("lmcourse api client")
        self._models: list[str] | None = None
        self.api_server_url, self.api_key = self._connection.url, api_key

    @property
    def available_models(self) -> list[str]:
        """The names that `model` may have."""
        if self._models is None:
            answer = self._loop.run(self._connection.get("/v1/models"))
            self._models = [entry["id"] for entry in answer["data"]]
        return list(self._models)

    def encode(
        self,
        input: str | list[str],
        *,
        do_preprocess: bool = False,
        add_bos: bool = True,
    ) -> tuple[Any, Any]:
        """Token ids and their number; lists of them for a list."""
        body = {"input": input, "do_preprocess": do_preprocess, "add_bos": add_bos}
        answer = self._loop.run(self._connection.post("/v1/encode", body))
        return answer["input_ids"], answer["length"]

    def chat_completions_v1(
        self,
        model: str,
        messages: Messages,
        temperature: float | None = 0.7,
        top_p: float | None = 1.0,
        n: int | None = 1,
        max_tokens: int | None = 512,
        **more: Any,
    ) -> Iterator[dict[str, Any]]:
        """`more` are the endpoint's other fields: stop, stream, repetition_penalty, ignore_eos, tools, ..."""
        body = {"model": model, "messages": messages, "temperature": temperature, "top_p": top_p, "n": n,
                "max_tokens": max_tokens, **more}  # fmt: skip
        return self._objects("/v1/chat/completions", body)

    def completions_v1(
        self,
        model: str,
        prompt: str | list[Any],
        suffix: str | None = None,
        temperature: float | None = 0.7,
        n: int | None = 1,
        max_tokens: int | None = 16,
        **more: Any,
    ) -> Iterator[dict[str, Any]]:
        """`more` are the endpoint's other fields: stop, stream, top_p, top_k, repetition_penalty, ignore_eos, ..."""
        body = {"model": model, "prompt": prompt, "temperature": temperature, "n": n, "max_tokens": max_tokens, **more}
        return self._objects("/v1/completions", body if suffix is None else {**body, "suffix": suffix})

    def chat_interactive_v1(
        self,
        prompt: Messages,
        session_id: int = -1,
        *,
        interactive_mode: bool = False,
        **more: Any,
    ) -> Iterator[dict[str, Any]]:
        """interactive_mode keeps the conversation at the server, under session_id.

        `more`: stream, stop, request_output_len (512), top_p (0.8), top_k (40), temperature (0.8), ...
        """
        usual = {"request_output_len": 512, "top_p": 0.8, "top_k": 40, "temperature": 0.8}
        own = {"prompt": prompt, "session_id": session_id, "interactive_mode": interactive_mode}
        return self._objects("/v1/chat/interactive", {**usual, **own, **more})

    def chat(self, prompt: str, session_id: int, **more: Any) -> Iterator[tuple[str, int, str | None]]:
        """Text, number of tokens and finish reason of an answer in a conversation that the server keeps."""
        _require_number(session_id)
        for answer in self.chat_interactive_v1(prompt, session_id, interactive_mode=True, **more):
            yield answer["text"], answer["tokens"], answer["finish_reason"]

    def end_session(self, session_id: int) -> None:
        """Have the server forget a conversation."""
        _require_number(session_id)
        for _ in self.chat_interactive_v1("", session_id, interactive_mode=False, request_output_len=0):
            pass

    def _objects(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        given = {name: value for name, value in body.items() if value is not None}
        if not given.get("stream"):
            yield self._loop.run(self._connection.post(path, given))
            return
        yield from _drain(self._loop, self._connection.stream(path, given))

    def close(self) -> None:
        """Close every connection. Closing twice is fine."""
        if not self._loop.closed:
            self._loop.close(self._connection.close())

    def __del__(self) -> None:
        if "_loop" in vars(self) and not self._loop.closed:
            self._loop.close(self._connection.close(), wait=False)

    def __enter__(self) -> APIClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_number(session_id: int) -> None:
    if session_id < 0:
        raise ConfigError("a conversation needs a number", expected="0 or more", got=session_id, where="session_id")


def _drain(loop: EventLoop, chunks: AsyncIterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """An asynchronous iterator as a plain one; leaving it early closes the connection."""
    box: queue.SimpleQueue[list[dict[str, Any]]] = queue.SimpleQueue()  # chunks one by one, an empty list at the end

    async def carry() -> None:
        try:
            async for chunk in chunks:
                box.put([chunk])
        finally:
            box.put([])

    work = loop.start(carry())
    try:
        while arrived := box.get():
            yield from arrived
        work.result()
    finally:
        work.cancel()
