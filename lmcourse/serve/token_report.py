"""Tokens and their logprobs in OpenAI's two forms.

A token is a run of bytes, often no whole character: `bytes` tells them exactly, `token` as well as text can.

Lesson: 5 (logprobs over the wire)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmcourse.text.tokenizer import Tokenizer

__all__ = ["chat_logprobs", "completion_logprobs"]

_LEAST = -9999.0  # what OpenAI writes for a probability of 0; JSON has no infinity


def chat_logprobs(tokenizer: Tokenizer, ids: Sequence[int], reports: Sequence[dict[int, float]], top: int) -> Any:
    """Chat's form: one entry per token, each with its `top` likeliest alternatives."""
    content = []
    for token_id, report in zip(ids, reports, strict=True):
        best = [_entry(tokenizer, other, value) for other, value in list(report.items())[:top]]
        content.append({**_entry(tokenizer, token_id, report[token_id]), "top_logprobs": best})
    return {"content": content}


def _entry(tokenizer: Tokenizer, token_id: int, value: float) -> dict[str, Any]:
    data = tokenizer.vocabulary.piece(token_id, None).data
    return {"token": data.decode("utf-8", "replace"), "logprob": max(value, _LEAST), "bytes": list(data)}


def completion_logprobs(
    tokenizer: Tokenizer, ids: Sequence[int], reports: Sequence[dict[int, float]], top: int, offset: int
) -> Any:
    """Completions' older form: parallel lists; `offset` is the length of the text before."""
    tokens = [_text(tokenizer, token_id) for token_id in ids]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [max(report[i], _LEAST) for i, report in zip(ids, reports, strict=True)],
        "top_logprobs": [
            {_text(tokenizer, i): max(value, _LEAST) for i, value in list(report.items())[:top]} for report in reports
        ],
        "text_offset": offsets,
    }


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    """Bytes that are no text are spelled out, as OpenAI does."""
    data = tokenizer.vocabulary.piece(token_id, None).data
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
