"""Tokens and their logprobs in OpenAI's two forms.

A token is a run of bytes, often no whole character: `bytes` tells them exactly, `token` as well as text can. Several
tokens may read alike; who asks with vLLM's return_tokens_as_token_ids gets "token_id:1234" in the place of text.

Lesson: 5 (logprobs over the wire)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmcourse.text.tokenizer import Tokenizer

__all__ = ["TokenNames", "chat_logprobs", "completion_logprobs"]

_LEAST = -9999.0  # what OpenAI writes for a probability of 0; JSON has no infinity


@dataclass(frozen=True)
class TokenNames:
    """How a report names tokens: by their text, or by their ids."""

    tokenizer: Tokenizer
    by_id: bool = False

    def entry(self, token_id: int, value: float) -> dict[str, Any]:
        """A token and its logprob in chat's form."""
        data = self.tokenizer.vocabulary.piece(token_id, None).data
        name = f"token_id:{token_id}" if self.by_id else data.decode("utf-8", "replace")
        return {"token": name, "logprob": max(value, _LEAST), "bytes": list(data)}

    def __call__(self, token_id: int) -> str:
        """In completions' form; bytes that are no text are spelled out, as OpenAI does."""
        return f"token_id:{token_id}" if self.by_id else self.text(token_id)

    def text(self, token_id: int) -> str:
        """A token's bytes as text."""
        data = self.tokenizer.vocabulary.piece(token_id, None).data
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(names: TokenNames, ids: Sequence[int], reports: Sequence[dict[int, float]], top: int) -> Any:
    """Chat's form: one entry per token, each with its `top` likeliest alternatives."""
    content = []
    for token_id, report in zip(ids, reports, strict=True):
        best = [names.entry(other, value) for other, value in list(report.items())[:top]]
        content.append({**names.entry(token_id, report[token_id]), "top_logprobs": best})
    return {"content": content}


def completion_logprobs(
    names: TokenNames, ids: Sequence[int], reports: Sequence[dict[int, float]], top: int, offset: int
) -> Any:
    """Completions' older form: parallel lists; `offset` is the length of the text before."""
    offsets = []
    for token_id in ids:
        offsets.append(offset)
        offset += len(names.text(token_id))
    return {
        "tokens": [names(token_id) for token_id in ids],
        "token_logprobs": [max(report[i], _LEAST) for i, report in zip(ids, reports, strict=True)],
        "top_logprobs": [
            {names(i): max(value, _LEAST) for i, value in list(report.items())[:top]} for report in reports
        ],
        "text_offset": offsets,
    }
