"""A status and what came with it → the error to raise. OpenAI's form is {"error": {message, type, param, code}}.

Lesson: 5 (what a key means, what a full queue says)
"""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Mapping
from typing import Any

from lmcourse.errors import ConfigError, KeyRefusedError, LmcourseError, PromptError, ServerBusyError, ServerError

__all__ = ["error_of", "retry_after_seconds"]

_PROMPT_PARAMS = ("messages", "prompt", "input")
_SHOWN_CHARACTERS = 300


def error_of(status: int, body: Any, headers: Mapping[str, str], url: str) -> LmcourseError:
    """What a refusal means for the caller."""
    message, param = _told(body)
    match status:
        case 401 | 403:
            return KeyRefusedError(message or "the server wants another key", got=status, where=url,
                                   next_step="give the key that the server was started with (--api-key)")  # fmt: skip
        case 429:
            wait = retry_after_seconds(headers.get("retry-after"))
            return ServerBusyError(message or "the server's queue is full", retry_after_seconds=wait, where=url)
        case 400 | 413 | 422 if param in _PROMPT_PARAMS:
            return PromptError(message or "the server refuses the prompt", where=param)
        case 400 | 413 | 415 | 422:
            return ConfigError(message or "the server refuses the request", where=param or url)
        case 404:
            return ServerError(message or "the server does not have that", got=status, where=url,
                               next_step="is it an API server? /v1/models lists its models")  # fmt: skip
        case _:
            return ServerError(message or "the server failed", got=status, where=url, next_step="see the server's log")


def _told(body: Any) -> tuple[str, str | None]:
    """Message and parameter, as far as the body has them."""
    error = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
    if isinstance(error, dict):
        param = error.get("param")
        return str(error.get("message") or "")[:_SHOWN_CHARACTERS], param if isinstance(param, str) else None
    text = str(error or "").strip()
    return ("" if text.startswith("<") else text[:_SHOWN_CHARACTERS]), None  # a page of HTML says nothing


def retry_after_seconds(header: str | None) -> float | None:
    """Retry-After as seconds from now: a number, or a date; None if it is neither."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        when = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())
