"""/v1/completions: prompts in, what follows out; no chat template.

Lesson: 5 (the completion endpoint)
"""

from __future__ import annotations

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
from lmcourse.serve.schema import CompletionAnswer, CompletionRequest
from lmcourse.serve.service import Service
from lmcourse.serve.streaming import EventStream, json_answer, while_connected
from lmcourse.serve.token_report import TokenNames, completion_logprobs

__all__ = ["completion_routes"]

_USUAL_LENGTH = 16  # OpenAI's default


def completion_routes(service: Service) -> APIRouter:
    """The route on a service."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/completions", response_model=CompletionAnswer, responses=ANSWERS)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Go on with one or more texts. With `stream` what follows comes as server-sent events."""
        request.state.prompt_field = "prompt"
        service.check_model(body.model)
        return await while_connected(request, _answer(service, body)) or nobody_there()

    return router


async def _answer(service: Service, body: CompletionRequest) -> Response:
    prompts = []
    service.admit(len(body.prompts) * (body.n or 1))
    for prompt in body.prompts:
        given = prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt}
        prompts.append(await service.encode(given, wrap=False))
    gen = body.generation_config(body.max_completion_tokens or body.max_tokens or _USUAL_LENGTH, body.logprobs)
    answers = await service.start(prompts, gen, body.n or 1)
    text = _Text(service, body, prompts)
    if body.stream:
        return EventStream(text.events(answers), answers.close)
    with answers:
        return json_answer(await text.whole(answers))


class _Text:
    """One request on its way to an answer."""

    def __init__(self, service: Service, body: CompletionRequest, prompts: list[list[int]]) -> None:
        self._tokenizer, self._body, self._prompts = service.pipe.tokenizer, body, prompts
        self._num_tokens = 0
        self._lengths: dict[int, int] = {}  # of the text of each answer so far
        created = int(time.time())
        self._head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": created,
                      "model": body.model}  # fmt: skip

    async def events(self, answers: Answers) -> AsyncGenerator[dict[str, Any], None]:
        """Chunks, at the end of all the counts if they were asked for."""
        if self._body.echo:
            for index in range(len(answers)):
                yield self._chunk(index, self._prompt_text(index // (self._body.n or 1)))
        async with aclosing(answers.pieces()) as pieces:
            async for index, output in pieces:
                self._num_tokens += len(output.token_ids)
                yield self._chunk(
                    index, output.text, self._logprobs(index, output), output.finish_reason, output.token_ids
                )
        options = self._body.stream_options
        if options is not None and options.include_usage:
            yield {**self._head, "choices": [], "usage": self._usage()}

    def _prompt_text(self, number: int) -> str:
        prompt = self._body.prompts[number]
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)

    def _chunk(
        self, index: int, text: str, logprobs: Any = None, reason: str | None = None, token_ids: Sequence[int] = ()
    ) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        choice["token_ids"] = list(token_ids)
        return {**self._head, "choices": [choice]}

    def _logprobs(self, index: int, output: StepOutput) -> Any:
        if output.logprobs is None:
            return None
        offset = self._lengths.get(index, 0)
        top = self._body.logprobs or 0
        names = TokenNames(self._tokenizer, bool(self._body.return_tokens_as_token_ids))
        report = completion_logprobs(names, output.token_ids, output.logprobs, top=top, offset=offset)
        self._lengths[index] = offset + sum(len(names.text(token_id)) for token_id in output.token_ids)
        return report

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The events put together."""
        choices = [self._chunk(index, "")["choices"][0] for index in range(len(answers))]
        texts: list[list[str]] = [[] for _ in choices]
        async with aclosing(self.events(answers)) as events:
            async for part in (part async for event in events for part in event["choices"]):
                choice = choices[part["index"]]
                texts[part["index"]].append(part["text"])
                choice["finish_reason"] = part["finish_reason"]
                choice["token_ids"] += part["token_ids"]
                choice["logprobs"] = _join(choice["logprobs"], part["logprobs"])
        for choice, parts in zip(choices, texts, strict=True):
            choice["text"] = "".join(parts)
        return {**self._head, "choices": choices, "usage": self._usage()}

    def _usage(self) -> dict[str, int]:
        old, new = sum(map(len, self._prompts)), self._num_tokens
        return {"prompt_tokens": old, "completion_tokens": new, "total_tokens": old + new}


def _join(before: Any, new: Any) -> Any:
    """Two reports as one; their lists grow."""
    if before is None or new is None:
        return before or new
    return {key: [*before[key], *new[key]] for key in before}
