"""Between the pipeline's words and the wire's: a prompt and its GenerationConfig → a request; a chunk → pieces.

Fields that OpenAI does not know are sent only where they differ from what a server does anyway, so that other servers
of the same interface can be asked, too.

Lesson: 5 (a request by hand)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmcourse.config import FinishReason, GenerationConfig
from lmcourse.errors import ConfigError, PromptError
from lmcourse.text.template import check_messages

__all__ = ["Piece", "Request", "Usage", "make_request", "read_pieces", "read_usage"]

_CHAT, _PLAIN = "/v1/chat/completions", "/v1/completions"
_FINISH: dict[str, FinishReason] = {"length": "length", "abort": "abort"}  # all others are a kind of stop
_OWN_FIELDS = ("repetition_penalty", "ignore_eos", "skip_special_tokens", "bad_words", "min_new_tokens", "min_p",
               "stop_token_ids")  # fmt: skip


@dataclass(frozen=True)
class Request:
    """Where to send what."""

    path: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """What a chunk adds to one of a request's answers. Without token ids in it a chunk counts as one token."""

    index: int
    text: str
    token_ids: list[int]
    num_tokens: int
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class Usage:
    """The server's count, which comes with a stream's last chunk."""

    prompt_tokens: int
    completion_tokens: int


def make_request(model: str, prompt: object, gen: GenerationConfig, *, wrap: bool = True) -> Request:
    """One prompt as the pipeline takes it: a text, messages, or {"prompt_token_ids": [...]}; PromptError for others.

    wrap=False sends a text without a chat template around it.
    """
    common = {"model": model, "stream": True, "stream_options": {"include_usage": True}, **_sampling_fields(gen)}
    if isinstance(prompt, dict):
        if set(prompt) != {"prompt_token_ids"}:
            raise PromptError("a prompt that is a dict holds token ids and nothing else",
                              expected='{"prompt_token_ids": [...]}', got=", ".join(map(repr, prompt)))  # fmt: skip
        return Request(_PLAIN, {**common, "prompt": [int(token) for token in prompt["prompt_token_ids"]]})
    if isinstance(prompt, str) and not wrap:
        return Request(_PLAIN, {**common, "prompt": prompt})
    if isinstance(prompt, tuple):
        raise PromptError("this client sends no images", expected="text or messages", got="a (text, image) pair")
    return Request(_CHAT, {**common, "messages": check_messages(prompt)})


def _sampling_fields(gen: GenerationConfig) -> dict[str, Any]:
    """Greedy is temperature 0: a server's own default is to sample."""
    if gen.logprobs is not None:
        raise ConfigError(
            "a server gives logprobs by text, not by token id", expected="logprobs=None", where="logprobs",
            next_step="ask the server with the openai package: logprobs=True, top_logprobs=k",
        )  # fmt: skip
    fields: dict[str, Any] = {"max_tokens": gen.max_new_tokens, "temperature": 0}
    if gen.samples:
        fields |= {"temperature": 1.0 if gen.temperature is None else gen.temperature, "top_k": gen.top_k or 0}
        fields |= {"top_p": 1.0 if gen.top_p is None else gen.top_p}
        fields |= {} if gen.random_seed is None else {"seed": gen.random_seed}
    if gen.n != 1:
        fields["n"] = gen.n
    if gen.stop_words:
        fields["stop"] = list(gen.stop_words)
    plain = GenerationConfig()
    own = {name: getattr(gen, name) for name in _OWN_FIELDS}
    return fields | {name: value for name, value in own.items() if value != getattr(plain, name)}


def read_pieces(chunk: dict[str, Any]) -> list[Piece]:
    """What a chunk adds; a chunk of usage, or one with the role alone, adds nothing."""
    pieces = []
    for choice in chunk.get("choices") or ():
        text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        token_ids = choice.get("token_ids")
        reason = choice.get("finish_reason")
        if text or token_ids or reason:
            count = int(bool(text)) if token_ids is None else len(token_ids)
            finish = _FINISH.get(reason, "stop") if reason else None
            pieces.append(Piece(choice.get("index", 0), text, token_ids or [], count, finish))
    return pieces


def read_usage(chunk: dict[str, Any]) -> Usage | None:
    """The count, in the chunk that has it."""
    usage = chunk.get("usage")
    return Usage(usage["prompt_tokens"], usage["completion_tokens"]) if usage else None
