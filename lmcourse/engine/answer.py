"""Answer: what a request has said so far and how much of it was handed out. No torch.

The idea: a token goes through three gates before its text may leave. Is it a stop token? Does it complete a
character? Could its text belong to a stop string? Tokens and logprobs leave at once, text when it has passed.

Contract: `push` every sampled token until `finish_reason` is set; `take` gives what is new since the last `take`.
token_ids holds no token of stop_ids. Tokens that make up a stop string stay in token_ids, since they may have gone
out before the string was complete.

Lesson: 2 (streaming)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lmcourse.config import FinishReason
from lmcourse.engine.stops import StopRule, StopStrings

__all__ = ["Answer", "StepOutput", "TextSource"]


class TextSource(Protocol):
    """Token ids in, complete characters out (text.tokenizer.TextStream)."""

    def push(self, token_id: int) -> str:
        """Text that this token completes; "" while a character is incomplete."""

    def flush(self) -> str:
        """What is left when no token follows."""


@dataclass(frozen=True)
class StepOutput:
    """What one request produced since it was last reported."""

    request_id: int
    token_ids: list[int]
    text: str
    finish_reason: FinishReason | None = None  # set on the last output of a request
    logprobs: list[dict[int, float]] | None = None  # one per token, if asked for
    error: Exception | None = None  # set where computing it failed; finish_reason is 'abort'


class Answer:
    """The output side of one request; without a text source its text is empty."""

    def __init__(self, request_id: int, rule: StopRule, text_source: TextSource | None) -> None:
        self.request_id = request_id
        self.rule = rule
        self.finish_reason: FinishReason | None = None
        self.token_ids: list[int] = []
        self._logprobs: list[dict[int, float]] = []
        self._text_source = text_source
        self._stop_strings = StopStrings(rule.stop_strings)
        self._text = ""  # passed every gate, not taken yet
        self._num_taken = 0

    @property
    def has_news(self) -> bool:
        """Whether `take` would give anything."""
        return len(self.token_ids) > self._num_taken or self._text != "" or self.finish_reason is not None

    def push(self, token_id: int, logprobs: dict[int, float] | None = None) -> None:
        """Take in the next sampled token and decide whether it is the last."""
        if token_id in self.rule.stop_ids and len(self.token_ids) >= self.rule.min_new_tokens:
            self._finish("stop")
            return
        self.token_ids.append(token_id)
        if logprobs is not None:
            self._logprobs.append(logprobs)
        text = self._text_source.push(token_id) if self._text_source else ""
        if text and self._pass_on(text, watch=len(self.token_ids) >= self.rule.min_new_tokens):
            self.finish_reason = "stop"
        self.end_if_full()

    def end_if_full(self) -> None:
        """Finish at max_new_tokens, unless finished; `push` does so itself if nothing interrupts it."""
        if self.finish_reason is None and len(self.token_ids) >= self.rule.max_new_tokens:
            self._finish("length")

    def _pass_on(self, text: str, *, watch: bool) -> bool:
        """Let text out as far as stop strings allow; whether one was reached."""
        if not (watch and self.rule.stop_strings):
            self._text += text
            return False
        released, reached = self._stop_strings.push(text)
        self._text += released
        return reached

    def _finish(self, reason: FinishReason) -> None:
        """No token follows: let out what waited for one."""
        rest = self._text_source.flush() if self._text_source else ""
        reached = self._pass_on(rest, watch=True)
        self._text += self._stop_strings.flush()
        self.finish_reason = "stop" if reached else reason

    def take(self) -> StepOutput:
        """Everything since the last call."""
        first, self._num_taken = self._num_taken, len(self.token_ids)
        text, self._text = self._text, ""
        logprobs = self._logprobs[first:] if self._logprobs else None
        return StepOutput(self.request_id, self.token_ids[first:], text, self.finish_reason, logprobs)
