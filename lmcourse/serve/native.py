"""LMDeploy's own endpoints: /v1/encode, and /v1/chat/interactive, where the server remembers the conversation.

A session is its messages and nothing else: the engine keeps no state between turns, so a session that is not asked
costs some text. The oldest unused is forgotten when there are too many. Each key has numbers of its own: nobody goes on
with somebody else's conversation.

Lesson: 5 (who remembers the conversation)
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from lmcourse.errors import ConfigError, PromptError
from lmcourse.serve.answers import Answers, Total
from lmcourse.serve.class_quotas import ACCOUNT
from lmcourse.serve.errors import ANSWERS, REFUSALS, nobody_there
from lmcourse.serve.schema import EncodeAnswer, EncodeRequest, InteractiveAnswer, InteractiveRequest
from lmcourse.serve.service import Service
from lmcourse.serve.streaming import EventStream, json_answer, while_connected
from lmcourse.text.template import Message

__all__ = ["native_routes"]

_MOST_CHARACTERS = 2**20  # to encode at once, which others wait for: some 0.6 s

SessionName = tuple[object, int]  # the account of whoever asks, and the number given


def native_routes(service: Service) -> APIRouter:
    """The routes on a service."""
    router = APIRouter(tags=["LMDeploy"])
    sessions = _Sessions(service.settings.max_sessions)

    @router.post("/v1/encode", response_model=EncodeAnswer, responses=REFUSALS)
    async def encode(body: EncodeRequest, request: Request) -> Response:
        """Token ids of a text or of several."""
        request.state.prompt_field = "input"
        texts = [body.input] if isinstance(body.input, str) else body.input
        if (num_characters := sum(map(len, texts))) > _MOST_CHARACTERS:
            raise PromptError("the input is too long", expected=f"at most {_MOST_CHARACTERS} characters in all",
                              got=num_characters, next_step="send it in parts")  # fmt: skip
        lists = [await _encode(service, body, text) for text in texts]
        lengths = [len(ids) for ids in lists]
        one = isinstance(body.input, str)
        return json_answer({"input_ids": lists[0] if one else lists, "length": lengths[0] if one else lengths})

    @router.post("/v1/chat/interactive", response_model=InteractiveAnswer, responses=ANSWERS)
    async def chat_interactive(body: InteractiveRequest, request: Request) -> Response:
        """One turn of a conversation that the server remembers. With `stream` it comes as server-sent events."""
        request.state.prompt_field = "prompt"
        return await while_connected(request, _turn(service, sessions, body)) or nobody_there()

    return router


async def _encode(service: Service, body: EncodeRequest, text: str) -> list[int]:
    tokenizer = service.pipe.tokenizer
    if body.do_preprocess:
        return await service.encode(text)
    adds_bos = body.add_bos is not False and tokenizer.adds_bos
    return await asyncio.to_thread(tokenizer.encode, text, add_bos=adds_bos)


@dataclass
class _Session:
    messages: list[Message] = field(default_factory=list)
    num_tokens: int = 0  # of the prompt and answer of the last turn
    answers: Answers | None = None  # of the turn that is running


class _Sessions:
    """The conversations that are remembered, by whose they are and their number."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_name: OrderedDict[SessionName, _Session] = OrderedDict()

    def open(self, name: SessionName) -> _Session:
        """The session of that name; one that is asked for the first time is new, number -1 always is."""
        if name[1] < 0:
            return _Session()
        session = self._by_name.setdefault(name, _Session())
        self._by_name.move_to_end(name)
        while len(self._by_name) > self._most:
            self._by_name.popitem(last=False)
        return session

    def forget(self, name: SessionName) -> None:
        """End a session and its running answer."""
        session = self._by_name.pop(name, None)
        if session is not None and session.answers is not None:
            session.answers.close()


async def _turn(service: Service, sessions: _Sessions, body: InteractiveRequest) -> Response:
    ends = body.request_output_len == 0
    name = (ACCOUNT.get(), body.session_id)
    if body.cancel or (ends and not body.interactive_mode):
        sessions.forget(name)
        return json_answer(_piece("", 0, 0, 0, "stop"))
    if ends:
        raise ConfigError("request_output_len 0 ends a session", expected="1 or more", where="request_output_len")
    turn = _Turn(sessions, name, body)
    answers = await turn.start(service)
    if body.stream:
        return EventStream(turn.events(answers), answers.close)
    with answers:
        pieces = [event async for event in turn.events(answers)]
    return json_answer({**pieces[-1], "text": "".join(piece["text"] for piece in pieces)})


def _piece(text: str, tokens: int, inputs: int, history: int, reason: str | None) -> dict[str, Any]:
    return {"text": text, "tokens": tokens, "input_tokens": inputs, "history_tokens": history, "finish_reason": reason}


class _Turn:
    """One question and its answer, which become part of the session when the answer ends, however it ends."""

    def __init__(self, sessions: _Sessions, name: SessionName, body: InteractiveRequest) -> None:
        self._sessions, self._name, self._body = sessions, name, body
        self._session = sessions.open(name)
        self._new = _messages(body.prompt)
        self._prompt_len = 0

    async def start(self, service: Service) -> Answers:
        """Queue it; an earlier answer of the session that is still running is cut short."""
        session, body = self._session, self._body
        prompt_ids = await service.encode([*session.messages, *self._new])
        gen = body.generation_config(body.request_output_len or service.pipe.session_len)
        answers = await service.start([prompt_ids], gen)
        if session.answers is not None:
            session.answers.close()
        session.answers = answers
        self._prompt_len = len(prompt_ids)
        return answers

    async def events(self, answers: Answers) -> AsyncGenerator[dict[str, Any], None]:
        """What is new, with the counts so far."""
        history, total = self._session.num_tokens, Total()
        try:
            async with aclosing(answers.pieces()) as pieces:
                async for _, output in pieces:
                    total.append(output)
                    inputs = self._prompt_len - history
                    yield _piece(output.text, total.num_tokens, inputs, history, output.finish_reason)
        finally:
            self._remember(answers, total)

    def _remember(self, answers: Answers, total: Total) -> None:
        if self._session.answers is answers:
            self._session.answers = None
        if not self._body.interactive_mode:
            self._sessions.forget(self._name)
        elif total.text or total.finish_reason is not None:
            self._session.messages += [*self._new, {"role": "assistant", "content": total.text}]
            self._session.num_tokens = self._prompt_len + total.num_tokens


def _messages(prompt: Any) -> list[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [message.model_dump(exclude_none=True) for message in prompt]
