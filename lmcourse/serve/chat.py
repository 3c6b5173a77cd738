"""/v1/chat/completions: a conversation in, the next message out, whole or piece by piece.

    request ─→ messages ─→ prompt ids ─→ n streams of the engine ─→ deltas ─→ events, or joined: one answer

Both ways of answering read the same deltas, so a stream says exactly what the whole answer would have said.

Lesson: 5 (the chat endpoint)
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from lmcourse.engine import StepOutput
from lmcourse.serve.answers import Answers
from lmcourse.serve.errors import ANSWERS, nobody_there
from lmcourse.serve.schema import ChatAnswer, ChatRequest
from lmcourse.serve.service import Service
from lmcourse.serve.streaming import EventStream, json_answer, while_connected
from lmcourse.serve.token_report import TokenNames, chat_logprobs
from lmcourse.serve.tools import CallSplitter, tool_format, write_grammar, write_messages
from lmcourse.text.tool_format import ToolFormat

__all__ = ["chat_routes"]


def chat_routes(service: Service) -> APIRouter:
    """The route on a service."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/chat/completions", response_model=ChatAnswer, responses=ANSWERS)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Go on with a conversation. With `stream` the answer comes as server-sent events."""
        request.state.prompt_field = "messages"
        service.check_model(body.model)
        return await while_connected(request, _answer(service, body)) or nobody_there()

    return router


async def _answer(service: Service, body: ChatRequest) -> Response:
    template = service.pipe.template
    form = tool_format(body, template)
    prompt_ids = await service.encode(write_messages(body, template))
    grammar = write_grammar(body, form)
    where = "tools" if form else "response_format"
    make_mask = None if grammar is None else await service.grammars.compile(grammar, where=where)
    longest = body.max_completion_tokens or body.max_tokens or service.pipe.session_len
    gen = body.generation_config(longest, (body.top_logprobs or 0) if body.logprobs else None)
    if form is not None:  # the marks of a call are special tokens
        bans = [form.call_marks[0]] if body.tool_choice == "none" else None
        gen = dataclasses.replace(gen, skip_special_tokens=False, bad_words=bans)
    answers = await service.start([prompt_ids], gen, body.n or 1, make_mask)
    talk = _Talk(service, body, len(prompt_ids), form)
    if body.stream:
        return EventStream(talk.events(answers), answers.close)
    with answers:
        return json_answer(await talk.whole(answers))


class _Talk:
    """One request on its way to an answer."""

    def __init__(self, service: Service, body: ChatRequest, prompt_len: int, form: ToolFormat | None) -> None:
        self._service, self._body, self._prompt_len, self._form = service, body, prompt_len, form
        self._num_tokens = 0
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}

    async def events(self, answers: Answers) -> AsyncGenerator[dict[str, Any], None]:
        """Chunks: each answer's role, its pieces, at the end of all the counts if they were asked for."""
        splitters = [_Splitter(self._form) for _ in range(len(answers))]
        for index in range(len(answers)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async with aclosing(answers.pieces()) as pieces:
            async for index, output in pieces:
                self._num_tokens += len(output.token_ids)
                deltas, reason = splitters[index].push(output)
                for delta in deltas[:-1]:
                    yield self._chunk(index, delta)
                if deltas or reason or output.token_ids:
                    last = deltas[-1] if deltas else {}
                    yield self._chunk(index, last, self._logprobs(output), reason, output.token_ids)
        options = self._body.stream_options
        if options is not None and options.include_usage:
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}

    def _chunk(
        self, index: int, delta: Any, logprobs: Any = None, reason: str | None = None, token_ids: Sequence[int] = ()
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        choice["token_ids"] = list(token_ids)
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
        names = TokenNames(self._service.pipe.tokenizer, bool(self._body.return_tokens_as_token_ids))
        return chat_logprobs(names, output.token_ids, output.logprobs, self._body.top_logprobs or 0)

    def _usage(self) -> dict[str, int]:
        new = self._num_tokens
        return {"prompt_tokens": self._prompt_len, "completion_tokens": new, "total_tokens": self._prompt_len + new}


class _Splitter:
    """An output's text as deltas, and why it ended."""

    def __init__(self, form: ToolFormat | None) -> None:
        self._calls = None if form is None else CallSplitter(form)

    def push(self, output: StepOutput) -> tuple[list[dict[str, Any]], str | None]:
        """What is new; a call that is complete is a reason of its own."""
        reason = output.finish_reason
        if self._calls is None:
            return ([{"content": output.text}] if output.text else []), reason
        deltas = self._calls.push(output.text, last=reason is not None)
        return deltas, "tool_calls" if self._calls.called and reason == "stop" else reason


class _Choice:
    """One answer, put together from the deltas of its stream."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._texts: list[str] = []
        self._call: dict[str, Any] | None = None
        self._logprobs: list[Any] | None = None
        self._token_ids: list[int] = []
        self._reason: str | None = None

    def append(self, part: dict[str, Any]) -> None:
        """Take in one chunk's choice."""
        self._texts.append(part["delta"].get("content") or "")
        for call in part["delta"].get("tool_calls", ()):
            if self._call is None:
                self._call = {key: call[key] for key in ("id", "type", "function")}
            else:
                self._call["function"]["arguments"] += call["function"]["arguments"]
        if part["logprobs"] is not None:
            self._logprobs = (self._logprobs or []) + part["logprobs"]["content"]
        self._token_ids += part["token_ids"]
        self._reason = part["finish_reason"]

    def whole(self) -> dict[str, Any]:
        """The choice of a whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._texts)}
        if self._call is not None:
            message |= {"content": message["content"] or None, "tool_calls": [self._call]}
        logprobs = None if self._logprobs is None else {"content": self._logprobs}
        choice = {"index": self._index, "message": message, "logprobs": logprobs, "finish_reason": self._reason}
        return {**choice, "token_ids": self._token_ids}
