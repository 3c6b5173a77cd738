"""Every refusal in one form: {"error": {"message", "type", "param", "code"}}.

    400  what was asked cannot be done     401  key          403  another's key         404  no such model or path
    413  body too large   415  not JSON    429  queue full   500  our fault             503  shutting down

Lesson: 5 (what the server refuses, and how)
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from lmcourse.errors import (
    ConfigError,
    EngineClosedError,
    LmcourseError,
    MemoryBudgetError,
    PromptError,
    ReplicaLostError,
    ServerBusyError,
)
from lmcourse.serve.paths import explain_missing
from lmcourse.serve.schema import ErrorAnswer

__all__ = [
    "ANSWERS",
    "FORBIDDEN",
    "REFUSALS",
    "ModelUnknownError",
    "QuotaSpentError",
    "add_error_handlers",
    "error_body",
    "nobody_there",
    "refusal",
    "refusal_of",
]

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
          500: "server_error", 503: "service_unavailable"}  # fmt: skip
_TOLD = {400: "what is asked cannot be done", 401: "a key is needed, or another one", 404: "no such model",
         413: "the body is too large", 415: "the body is not JSON", 429: "the queue is full, or a quota spent",
         500: "the server failed", 503: "the server is shutting down, or its replica died"}  # fmt: skip
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": told} for status, told in _TOLD.items()
}
FORBIDDEN: dict[int | str, dict[str, Any]] = {403: {"model": ErrorAnswer, "description": "a student's key"}}
_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
ANSWERS: dict[int | str, dict[str, Any]] = {
    **REFUSALS,
    200: {"content": {"text/event-stream": {"schema": _EVENT}}, "description": "The answer."},
}
_UNREADABLE = "the body cannot be read: it must be JSON in UTF-8, not nested deeply, without endless numbers"
_LOG = logging.getLogger("lmcourse.serve")
_SHOWN_CHARACTERS = 500
_FIELD = re.compile(r"(?!(?:str|int|float|bool|none)$)[a-z_]+")  # the other parts of a place name types


class ModelUnknownError(LmcourseError):
    """A request names a model that is not here."""


class QuotaSpentError(LmcourseError):
    """A student has used what the class's roster grants; retry_after_seconds is None where waiting does not help."""

    def __init__(
        self, what: str, *, got: object = None, next_step: str, retry_after_seconds: float | None = None
    ) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(what, got=got, next_step=next_step)


def nobody_there() -> Response:
    """What is answered when whoever asked has left; its headers grow on the way out, so it is no constant."""
    return Response(status_code=499)


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of a refusal."""
    kind = _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message[:_SHOWN_CHARACTERS], "type": kind, "param": param, "code": code}}


def refusal(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A refusal; ASCII on the wire, since what it quotes may be no proper text."""
    content = json.dumps(error_body(status, message, param=param, code=code))
    return Response(content, status, headers, media_type="application/json")


def refusal_of(error: BaseException, *, field: str | None = None) -> Response:
    """What an error means for whoever asked; `field` is the part of the request that held the prompt."""
    match error:
        case ModelUnknownError():
            return refusal(404, str(error), param="model", code="model_not_found")
        case ServerBusyError() | QuotaSpentError():
            return _of_limit(error)
        case PromptError():
            code = "context_length_exceeded" if "too long" in error.what else "invalid_prompt"
            return refusal(400, str(error), param=field, code=code)
        case ConfigError():
            return refusal(
                400, str(error), param=None if error.where is None else str(error.where), code="invalid_value"
            )
        case MemoryBudgetError():
            return refusal(400, str(error), param="max_tokens", code="context_length_exceeded")
        case EngineClosedError():
            return refusal(503, str(error), code="shutting_down", headers={"Retry-After": "1"})
        case ReplicaLostError():
            return refusal(503, str(error), code="replica_lost", headers={"Retry-After": "1"})
        case _:
            message = str(error) if isinstance(error, LmcourseError) else "the server failed; its log says more"
            return refusal(500, message, code="internal_error")


def _of_limit(error: ServerBusyError | QuotaSpentError) -> Response:
    """With the time after which asking again makes sense, if there is one."""
    of_quota = isinstance(error, QuotaSpentError)
    if of_quota and error.retry_after_seconds is None:
        return refusal(429, str(error), code="insufficient_quota")
    seconds = str(max(1, math.ceil(error.retry_after_seconds or 1)))
    code = "rate_limit_exceeded" if of_quota else "queue_full"
    return refusal(429, str(error), code=code, headers={"Retry-After": seconds})


def _of_validation(error: RequestValidationError) -> Response:
    """One thing that is wrong, by name, in pydantic's words. Of a field's several forms the one that came closest."""
    first = min(error.errors(), key=lambda entry: (entry["type"].endswith("_type"), -len(entry["loc"])))
    path = [str(part) for part in first["loc"][1:] if isinstance(part, int) or _FIELD.fullmatch(part)]
    if first["type"] == "json_invalid":
        return refusal(400, f"the body is not JSON: {first['ctx']['error']}", code="invalid_json")
    param = ".".join(path) or None
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "this field does not exist; see the docs page at /"
    return refusal(400, f"{param}: {message}" if param else message, param=param, code=first["type"])


def add_error_handlers(app: FastAPI) -> None:
    """Have every error that leaves a route answered in the one form."""

    async def on_validation(request: Request, error: Any) -> Response:
        return _of_validation(error)

    async def on_http(request: Request, error: Any) -> Response:
        code = {400: "invalid_json", 404: "path_not_found", 405: "method_not_allowed"}.get(error.status_code)
        told = {400: _UNREADABLE, 404: explain_missing(request.url.path)}.get(error.status_code, error.detail)
        return refusal(error.status_code, str(told), code=code, headers=error.headers)

    async def on_error(request: Request, error: Any) -> Response:
        answer = refusal_of(error, field=getattr(request.state, "prompt_field", None))
        if answer.status_code == 500 and isinstance(error, LmcourseError):  # uvicorn logs the others
            _LOG.error("a request failed", exc_info=error)
        return answer

    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(LmcourseError, on_error)
    app.add_exception_handler(Exception, on_error)
