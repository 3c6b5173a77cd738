"""A server that is not ours: OpenAI's published shapes, canned answers, and every way to refuse or fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

MODEL = "stand-in"


REFUSALS = {
    "busy": (429, {"message": "queue is full", "type": "rate_limit", "param": None}, {"Retry-After": "7"}),
    "too long": (400, {"message": "prompt has 9 tokens", "type": "invalid", "param": "messages"}, {}),
    "bad setting": (400, {"message": "top_p is wrong", "type": "invalid", "param": "top_p"}, {}),
    "broken": (500, {"message": "engine died"}, {}),
}


def sse(*objects: object) -> Iterator[bytes]:
    for entry in objects:
        yield f"data: {entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False)}\n\n".encode()


@dataclass
class StandIn:
    """What the server was asked, and what it shall do: `failure` names the way in which every request ends."""

    url: str = ""
    key: str | None = None
    failure: str = ""
    num_spared: int = 0  # so many requests are answered before the failure begins
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    abandoned: int = 0
    seconds_per_word: float = 0.0
    history: dict[int, list[str]] = field(default_factory=dict)

    @staticmethod
    def answer_of(text: str) -> str:
        return f"you said {text} ✓ \u2028 ok "

    def app(self) -> FastAPI:
        app = FastAPI()
        app.get("/v1/models")(self.models)
        app.post("/v1/chat/completions")(self.complete)
        app.post("/v1/completions")(self.complete)
        app.post("/v1/encode")(self.encode)
        app.post("/v1/chat/interactive")(self.interactive)
        return app

    async def models(self, request: Request):
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "wrong key", "type": "auth", "param": None}}, 401)
        if self.failure == "not json":
            return PlainTextResponse("hello, I am a web server")
        return {"object": "list", "data": [{"id": MODEL, "object": "model"}, {"id": "other", "object": "model"}]}

    async def complete(self, request: Request):
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.failure in REFUSALS and len(self.bodies) > self.num_spared:
            status, error, headers = REFUSALS[self.failure]
            return JSONResponse({"error": error}, status, headers)
        if self.failure == "html":
            return PlainTextResponse("<html>not here</html>", 404)
        text = self.answer_of(body["messages"][-1]["content"] if "messages" in body else str(body["prompt"]))
        if body.get("stream"):
            return StreamingResponse(self.counted(body, text), media_type="text/event-stream")
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "text": text}]}

    async def counted(self, body: dict, text: str):
        """Chunks of every answer; counts who leaves before the end."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        ended = False
        try:
            async for chunk in self.chunks("messages" in body, body.get("n", 1), text.strip(" ").split(" ")):
                yield chunk
            ended = True
        finally:
            self.in_flight -= 1
            self.abandoned += not ended

    async def chunks(self, chat: bool, n: int, words: list[str]):
        def choice(index: int, text: str, finish_reason: str | None = None) -> dict:
            piece = {"delta": {"content": text} if text else {}} if chat else {"text": text}
            return {"index": index, "finish_reason": finish_reason, **piece}

        if chat:
            yield from_choices({"index": 0, "delta": {"role": "assistant"}, "finish_reason": None})
        for word in words:
            await asyncio.sleep(self.seconds_per_word)
            for index in range(n):
                yield from_choices(choice(index, word + " "))
            if self.failure == "mid-stream error":
                yield next(sse({"error": {"message": "engine died", "type": "server"}}))
            if self.failure == "breaks off":
                return
        for index in range(n):
            yield from_choices(choice(index, "", "stop"))
        yield next(sse({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 22}}))
        yield next(sse("[DONE]"))

    async def encode(self, request: Request):
        given = (await request.json())["input"]
        return {"input_ids": list(given.encode()), "length": len(given.encode())}

    async def interactive(self, request: Request):
        body = await request.json()
        self.bodies.append(body)
        if not body["interactive_mode"]:
            self.history.pop(body["session_id"], None)
            return {"text": "", "tokens": 0, "input_tokens": 0, "history_tokens": 0, "finish_reason": None}
        said = self.history.setdefault(body["session_id"], [])
        said.append(body["prompt"])
        text, counts = " and ".join(said), {"input_tokens": 3, "history_tokens": 4}
        if not body.get("stream"):
            return {"text": text, "tokens": 2, "finish_reason": "stop", **counts}
        pieces = [
            {"text": text, "tokens": 1, "finish_reason": None, **counts},
            {"text": "", "tokens": 2, "finish_reason": "stop", **counts},
        ]
        return StreamingResponse(sse(*pieces, "[DONE]"), media_type="text/event-stream")


def from_choices(*choices: dict) -> bytes:
    return next(sse({"id": "1", "object": "chunk", "choices": choices}))


@contextlib.contextmanager
def running_stand_in() -> Iterator[StandIn]:
    """The server, on a port of its own, in a thread."""
    state = StandIn()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        state.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(state.app(), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield state
        server.should_exit = True
        thread.join()
