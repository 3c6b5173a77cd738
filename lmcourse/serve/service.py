"""Service: what the routes share: the engine, the template, the names of the model, and who may come in.

The idea of admission: an answer either has a place in the batch, or waits, or is refused at once with the time after
which asking again makes sense. A queue without an end only turns a busy server into a slow one.

Lesson: 5 (continuous batching under load)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lmcourse.config import GenerationConfig
from lmcourse.engine import AsyncEngine, Order, StepOutput, TokenMask, TokenStream
from lmcourse.errors import ConfigError, EngineClosedError, PromptError, ServerBusyError
from lmcourse.pipeline import Pipeline
from lmcourse.serve.answers import Answers
from lmcourse.serve.class_quotas import ACCOUNT
from lmcourse.serve.class_work import Tally
from lmcourse.serve.errors import ModelUnknownError
from lmcourse.serve.grammar import Grammars
from lmcourse.serve.metrics import Clock, Metrics
from lmcourse.serve.pictures import outside_reader, shows_pictures
from lmcourse.serve.settings import ServerSettings
from lmcourse.text.prompts import encode_prompt

__all__ = ["Service"]

# shorter prompts are encoded at once, longer ones on another thread
_INLINE_CHARACTERS, _INLINE_MESSAGES = 4096, 64


class Service:
    """One model, asked by many."""

    def __init__(self, source: Pipeline | AsyncEngine, settings: ServerSettings) -> None:
        self.engine = source if isinstance(source, AsyncEngine) else AsyncEngine(source)
        if not isinstance(self.engine.source, Pipeline):
            raise ConfigError("a server needs a pipeline, which knows the chat template", got=repr(self.engine.source))
        self.pipe: Pipeline = self.engine.source
        self.settings = settings
        if settings.students:
            self.engine.share_fairly()
        self.grammars = Grammars(self.pipe.tokenizer, self.pipe.engine.spec.vocab, self.pipe.stop_ids)
        self.metrics = Metrics(self.engine.stats)
        self.written = Tally()  # tokens of everybody's answers
        self.started_at = int(time.time())
        self.draining = False
        self._seconds_per_answer = 1.0  # running mean
        self._longest_token = _count_longest(self.pipe)

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names that `model` may have; the first is the one that is shown."""
        return (self.pipe.name, *self.settings.model_aliases)

    def check_model(self, name: str) -> None:
        """ModelUnknownError for a model that is not here."""
        if name not in self.model_names:
            raise ModelUnknownError(f"the model {name!r} does not exist", expected=" | ".join(self.model_names))

    async def encode(self, prompt: Any, *, wrap: bool = True) -> list[int]:
        """Token ids of a text, messages or {"prompt_token_ids": ids}; PromptError also for what is plainly too long."""
        num_characters = _count_characters(prompt)
        if num_characters > self.pipe.session_len * self._longest_token:
            raise PromptError(
                "the prompt is too long for the session",
                expected=f"at most {self.pipe.session_len - 1} tokens",
                got=f"{num_characters} characters",
                next_step="shorten the prompt or raise session_len",
            )
        pipe = self.pipe
        encode = partial(
            encode_prompt,
            prompt,
            pipe.template,
            pipe.tokenizer,
            wrap=wrap,
            reader=outside_reader(pipe.engine.encoder),
            session_len=pipe.session_len,
        )
        many = isinstance(prompt, list) and len(prompt) > _INLINE_MESSAGES
        takes_time = many or num_characters > _INLINE_CHARACTERS or shows_pictures(prompt)
        return await asyncio.to_thread(encode) if takes_time else encode()

    async def start(
        self,
        prompts: Sequence[list[int]],
        gen: GenerationConfig,
        n: int = 1,
        make_mask: Callable[[], TokenMask] | None = None,
    ) -> Answers:
        """n answers to each prompt, all taken by the engine, or none and an error."""
        clock = Clock(self.metrics, self._note_answer)
        account, count = ACCOUNT.get(), len(prompts) * n
        self.admit(count)
        works = account.open(count)
        streams: list[TokenStream] = []
        try:
            for ids in prompts:
                for index in range(n):
                    mask = make_mask and make_mask()
                    own = self.pipe.with_stops(gen, index)
                    streams.append(self.engine.start(Order(ids, own, self.pipe.stop_ids, mask, account.name)))
            for stream in streams:
                await stream.accepted()
        except BaseException:
            for stream in streams:
                stream.close()
            account.close(works)
            raise
        self.metrics.prompt_tokens.inc(sum(map(len, prompts)))
        account.charge(n * sum(map(len, prompts)))

        def note(index: int, output: StepOutput) -> None:
            clock.note(index, output)
            account.write(works[index], len(output.token_ids))
            self.written.add(time.monotonic(), len(output.token_ids))

        return Answers(streams, note, lambda: account.close(works))

    def admit(self, count: int) -> None:
        """ServerBusyError if `count` more answers would make the queue too long."""
        if self.draining:
            raise EngineClosedError("the server is shutting down", next_step="try again later")
        places = self.pipe.engine.config.max_batch_size
        ahead = self.engine.num_open - places - self.settings.max_queue + count
        if ahead > 0:
            raise ServerBusyError(
                "the queue is full", retry_after_seconds=min(60.0, max(1.0, self._seconds_per_answer * ahead / places))
            )

    def _note_answer(self, seconds: float) -> None:
        """An answer took so long from the asking to its end."""
        self._seconds_per_answer += 0.1 * (seconds - self._seconds_per_answer)

    async def finish(self) -> None:
        """Refuse new requests, finish what runs within the grace, return the rest as it is."""
        self.draining = True
        await self.engine.aclose(self.settings.grace_seconds)


def _count_longest(pipe: Pipeline) -> int:
    """Bytes of the longest token: no prompt that fits the session is longer than session_len of these."""
    vocabulary = pipe.tokenizer.vocabulary
    return max(len(vocabulary.piece(token_id, None).data) for token_id in range(vocabulary.size))


def _count_characters(prompt: Any) -> int:
    match prompt:
        case str():
            return len(prompt)
        case list():
            return sum(map(_count_characters, prompt))
        case {"content": text} | {"text": text}:  # a message, a part of one
            return _count_characters(text)
        case _:
            return 0
