"""/v1/completions: text or token ids in, what follows out; no chat template.

Lesson: 5 (the request)
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lmcourse.serve.schema.base import Answer, FinishReason, NotHere, SamplingRequest, StreamOptions, TokenId, Usage

__all__ = ["CompletionAnswer", "CompletionChoice", "CompletionLogprobs", "CompletionRequest", "NotHere"]

_Ids = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
_Texts = Annotated[list[str], Field(min_length=1, max_length=2048, fail_fast=True)]
_IdLists = Annotated[list[_Ids], Field(min_length=1, max_length=2048, fail_fast=True)]


class CompletionRequest(SamplingRequest):
    """Prompts to go on with: a text, a list of texts, token ids, or a list of these."""

    model: str
    prompt: str | _Ids | _Texts | _IdLists
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = Field(None, description="Must equal n.")
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(None, description="Default 16, as OpenAI's.")
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = Field(None, description="Put the prompt before the answer; not together with logprobs.")
    return_tokens_as_token_ids: bool | None = Field(
        None, description='vLLM\'s: logprobs name tokens "token_id:1234", since several may read alike.'
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = Field(None, description="Needs stream: true.")
    suffix: NotHere = None
    user: str | None = Field(None, description="Accepted and not kept.")
    session_id: int | None = Field(None, description="LMDeploy's; accepted and not needed.")

    @model_validator(mode="after")
    def _fields_fit_together(self) -> CompletionRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of other than n is not supported")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo together with logprobs is not supported")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts as a batch."""
        prompt: Any = self.prompt
        return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else list(prompt)


class CompletionLogprobs(Answer):
    """Lists with one entry per token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One answer, or in a stream what is new in it; index counts prompts × n."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] = Field(description="Not in OpenAI's interface.")


class CompletionAnswer(Answer):
    """The whole answer, or a piece of the stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
