"""Between the pipeline's words and the wire's: a prompt and its GenerationConfig → a request; a chunk → pieces.

Fields that OpenAI does not know are sent only where they differ from what a server does anyway, so that other servers
of the same interface can be asked, too.

Lesson: 5 (a request by hand)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lmcourse.client.pictures import write_messages
from lmcourse.config import FinishReason, GenerationConfig
from lmcourse.errors import PromptError, ServerError
from lmcourse.text.template import check_messages

__all__ = ["Piece", "Request", "Usage", "make_request", "read_pieces", "read_usage"]

_CHAT, _PLAIN = "/v1/chat/completions", "/v1/completions"
_ID_MARK, _NEVER = "token_id:", -9999.0
_FINISH: dict[str, FinishReason] = {"length": "length", "abort": "abort"}  # all others are a kind of stop
_OWN_FIELDS = ("repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
               "ignore_eos", "skip_special_tokens", "bad_words", "min_new_tokens", "min_p",
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
    logprobs: list[dict[int, float]]
    num_tokens: int
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class Usage:
    """The server's count, which comes with a stream's last chunk."""

    prompt_tokens: int
    completion_tokens: int


def make_request(model: str, prompt: object, gen: GenerationConfig, *, wrap: bool = True) -> Request:
    """One prompt as the pipeline takes it, with images or without; PromptError for what is none.

    wrap=False sends a text without a chat template around it.
    """
    common = {"model": model, "stream": True, "stream_options": {"include_usage": True}, **_sampling_fields(gen)}
    plain = common | _logprob_fields(gen, _PLAIN)
    if isinstance(prompt, dict):
        if set(prompt) != {"prompt_token_ids"}:
            raise PromptError("a prompt that is a dict holds token ids and nothing else",
                              expected='{"prompt_token_ids": [...]}', got=", ".join(map(repr, prompt)))  # fmt: skip
        return Request(_PLAIN, {**plain, "prompt": [int(token) for token in prompt["prompt_token_ids"]]})
    if isinstance(prompt, str) and not wrap:
        return Request(_PLAIN, {**plain, "prompt": prompt})
    return Request(_CHAT, {**common, **_logprob_fields(gen, _CHAT), "messages": write_messages(check_messages(prompt))})


def _logprob_fields(gen: GenerationConfig, path: str) -> dict[str, Any]:
    """OpenAI's reports name tokens by their text, which several may share: vLLM's field asks for ids in its place."""
    if gen.logprobs is None:
        return {}
    asked = {"logprobs": gen.logprobs} if path == _PLAIN else {"logprobs": True, "top_logprobs": gen.logprobs}
    return {**asked, "return_tokens_as_token_ids": True}


def _sampling_fields(gen: GenerationConfig) -> dict[str, Any]:
    """Greedy is temperature 0: a server's own default is to sample."""
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
        logprobs = _read_logprobs(choice.get("logprobs") or {})
        if text or token_ids or reason or logprobs:
            count = max(int(bool(text)), len(logprobs)) if token_ids is None else len(token_ids)
            finish = _FINISH.get(reason, "stop") if reason else None
            pieces.append(Piece(choice.get("index", 0), text, token_ids or [], logprobs, count, finish))
    return pieces


def _read_logprobs(report: dict[str, Any]) -> list[dict[int, float]]:
    """Chat's form, a list of entries, or completions' older one, parallel lists → one dict a token."""
    if "content" in report:
        entries = report["content"] or ()
        named = [{entry["token"]: entry["logprob"] for entry in (*each["top_logprobs"], each)} for each in entries]
    else:
        chosen = zip(report.get("tokens") or (), report.get("token_logprobs") or (), strict=True)
        best = report.get("top_logprobs") or ()
        named = [{**others, token: value} for others, (token, value) in zip(best, chosen, strict=True)]
    return [{_token_id(name): _exact(value) for name, value in each.items()} for each in named]


def _token_id(name: str) -> int:
    if not name.startswith(_ID_MARK):
        raise ServerError(
            "the server does not tell which tokens its logprobs are of", expected=f"{_ID_MARK}NUMBER", got=repr(name),
            where="logprobs", next_step="ask it with the openai package: its reports name tokens by their text",
        )  # fmt: skip
    return int(name.removeprefix(_ID_MARK))


def _exact(logprob: float) -> float:
    """JSON has no infinity; servers write OpenAI's -9999 for a probability of 0."""
    return -math.inf if logprob <= _NEVER else logprob


def read_usage(chunk: dict[str, Any]) -> Usage | None:
    """The count, in the chunk that has it."""
    usage = chunk.get("usage")
    return Usage(usage["prompt_tokens"], usage["completion_tokens"]) if usage else None
