"""LMDeploy's own endpoints and the small ones: /v1/encode, /v1/chat/interactive, /v1/models, /health.

Lesson: 5 (the request)
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmcourse.serve.schema.base import Answer, FinishReason, NotHere, Request, SamplingRequest
from lmcourse.serve.schema.chat import Messages

__all__ = [
    "EncodeAnswer",
    "EncodeRequest",
    "HealthAnswer",
    "InteractiveAnswer",
    "InteractiveRequest",
    "ModelCard",
    "ModelList",
    "NotHere",
]


class EncodeRequest(Request):
    """Texts to turn into token ids."""

    input: str | Annotated[list[str], Field(max_length=2048, fail_fast=True)] = Field(
        description="At most 1,048,576 characters in all."
    )
    do_preprocess: bool | None = Field(None, description="Wrap the text in the chat template first (default false).")
    add_bos: bool | None = Field(None, description="Begin with BOS if the model has one (default true).")


class EncodeAnswer(Answer):
    """Ids and their number; lists of these for a list of texts."""

    input_ids: list[int] | list[list[int]]
    length: int | list[int]


class InteractiveRequest(SamplingRequest):
    """One turn of a conversation that the server remembers under its session_id."""

    prompt: str | Messages
    session_id: Annotated[int, Field(ge=-1, le=2**63 - 1)] = Field(-1, description="-1: a conversation of its own.")
    interactive_mode: bool = Field(
        default=False, description="Remember this turn for the next; false ends the session."
    )
    stream: bool | None = None
    request_output_len: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="Longest answer in tokens; 0: none, which with interactive_mode false ends the session."
    )
    adapter_name: NotHere = None
    cancel: bool | None = Field(None, description="End the session's running answer and forget the session.")


class InteractiveAnswer(Answer):
    """A turn's answer, or in a stream what is new in it; the counts are totals."""

    text: str
    tokens: int
    input_tokens: int
    history_tokens: int
    finish_reason: FinishReason | None


class ModelCard(Answer):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lmcourse"
    root: str
    max_model_len: int = Field(description="Most tokens of prompt and answer together.")


class ModelList(Answer):
    """The models; here there is one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class HealthAnswer(Answer):
    """ok, or draining: finishing what runs before the end."""

    status: Literal["ok", "draining"]
