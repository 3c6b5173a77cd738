"""/v1/chat/completions: a conversation in, the next message out, whole or piece by piece.

    request ─→ messages ─→ prompt ids ─→ n streams of the engine ─→ deltas ─→ events, or joined: one answer

Both ways of answering read the same deltas, so a stream says exactly what the whole answer would have said.

Lesson: 5 (the chat endpoint)
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from lmcourse.engine import StepOutput
from lmcourse.serve.answers import Answers
from lmcourse.serve.errors import ANSWERS, LEFT
from lmcourse.serve.schema import ChatAnswer, ChatRequest
from lmcourse.serve.service import Service
from lmcourse.serve.streaming import EventStream, json_answer, while_connected
from lmcourse.serve.token_report import chat_logprobs
from lmcourse.text.template import Message

__all__ = ["chat_routes"]


def chat_routes(service: Service) -> APIRouter:
    """The route on a service."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/chat/completions", response_model=ChatAnswer, responses=ANSWERS)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Go on with a conversation. With `stream` the answer comes as server-sent events."""
        request.state.prompt_field = "messages"
        service.check_model(body.model)
        return await while_connected(request, _answer(service, body)) or LEFT

    return router


async def _answer(service: Service, body: ChatRequest) -> Response:
    prompt_ids = await service.encode(_messages(body))
    longest = body.max_completion_tokens or body.max_tokens or service.pipe.session_len
    gen = body.generation_config(longest, (body.top_logprobs or 0) if body.logprobs else None)
    answers = await service.start([prompt_ids], gen, body.n or 1)
    talk = _Talk(service, body, len(prompt_ids))
    return EventStream(talk.events(answers)) if body.stream else json_answer(await talk.whole(answers))


def _messages(body: ChatRequest) -> str | list[Message]:
    if isinstance(body.messages, str):
        return body.messages
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    return [{**message, "role": _ROLES.get(message["role"], message["role"])} for message in messages]


_ROLES = {"developer": "system"}


class _Talk:
    """One request on its way to an answer."""

    def __init__(self, service: Service, body: ChatRequest, prompt_len: int) -> None:
        self._service, self._body, self._prompt_len = service, body, prompt_len
        self._num_tokens = 0
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}

    async def events(self, answers: Answers) -> AsyncGenerator[dict[str, Any], None]:
        """Chunks: each answer's role, its pieces, at the end of all the counts if they were asked for."""
        for index in range(len(answers)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async with aclosing(answers.pieces()) as pieces:
            async for index, output in pieces:
                self._num_tokens += len(output.token_ids)
                delta = {"content": output.text} if output.text else {}
                yield self._chunk(index, delta, self._logprobs(output), output.finish_reason)
        options = self._body.stream_options
        if options is not None and options.include_usage:
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}

    def _chunk(self, index: int, delta: Any, logprobs: Any = None, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The events put together."""
        choices = [_Choice(index) for index in range(len(answers))]
        async with aclosing(self.events(answers)) as events:
            async for event in events:
                for part in event["choices"]:
                    choices[part["index"]].append(part)
        whole = [choice.whole() for choice in choices]
        return {**self._head, "object": "chat.completion", "choices": whole, "usage": self._usage()}

    def _logprobs(self, output: StepOutput) -> Any:
        if output.logprobs is None:
            return None
        tokenizer = self._service.pipe.tokenizer
        return chat_logprobs(tokenizer, output.token_ids, output.logprobs, self._body.top_logprobs or 0)

    def _usage(self) -> dict[str, int]:
        new = self._num_tokens
        return {"prompt_tokens": self._prompt_len, "completion_tokens": new, "total_tokens": self._prompt_len + new}


class _Choice:
    """One answer, put together from the deltas of its stream."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._texts: list[str] = []
        self._logprobs: list[Any] | None = None
        self._reason: str | None = None

    def append(self, part: dict[str, Any]) -> None:
        """Take in one chunk's choice."""
        self._texts.append(part["delta"].get("content") or "")
        if part["logprobs"] is not None:
            self._logprobs = (self._logprobs or []) + part["logprobs"]["content"]
        self._reason = part["finish_reason"]

    def whole(self) -> dict[str, Any]:
        """The choice of a whole answer."""
        message = {"role": "assistant", "content": "".join(self._texts)}
        logprobs = None if self._logprobs is None else {"content": self._logprobs}
        return {"index": self._index, "message": message, "logprobs": logprobs, "finish_reason": self._reason}
