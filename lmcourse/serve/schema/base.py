"""What requests and answers share: refusal of unknown keys, sampling settings, usage, errors.

The idea: a setting that is accepted has an effect. OpenAI's fields that mean nothing to one machine (user, store, ...)
are accepted because clients send them; settings that would change the answer and are not there are refused by name.

A body is read on the thread that writes everybody's answers, so what it may repeat is bounded, and a list ends its
check with the first entry that is wrong.

Lesson: 5 (the request)
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lmcourse.config import GenerationConfig

__all__ = [
    "Answer",
    "ErrorAnswer",
    "ErrorBody",
    "NotHere",
    "Request",
    "SamplingRequest",
    "StreamOptions",
    "TokenId",
    "Usage",
]

FinishReason = Literal["stop", "length", "tool_calls", "abort"]
Number = Annotated[float, Field(allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Penalty = Annotated[Number, Field(ge=-2, le=2)]
_Bias = Annotated[Number, Field(ge=-100, le=100)]
_IdText = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
_Stop = Annotated[str, Field(min_length=1, max_length=1024)]


class Request(BaseModel):
    """A body: unknown keys are errors unless they are null, and numbers are not guessed from texts."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        """Clients that dump their own classes send null for each of their fields that was not set."""
        if not isinstance(given, dict) or None not in given.values():
            return given
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {key: value for key, value in given.items() if value is not None or key in known}


class Answer(BaseModel):
    """What the server sends."""

    model_config = ConfigDict(protected_namespaces=())


def _refuse(value: Any) -> None:
    if value not in (None, 0, {}, []):
        raise ValueError("this server does not have this setting; leave it out")


NotHere = Annotated[None, BeforeValidator(_refuse), Field(description="Not supported: leave it out, null or 0.")]


class StreamOptions(Request):
    """How a stream ends."""

    include_usage: bool = Field(default=False, description="Send the token counts in a last piece before [DONE].")
    include_obfuscation: bool | None = Field(None, description="Accepted; nothing is padded here.")


class SamplingRequest(Request):
    """How tokens are chosen and when the answer ends; greedy without temperature, top_p, top_k, min_p and seed."""

    temperature: Annotated[Number, Field(ge=0, le=2)] | None = Field(None, description="0 is greedy.")
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(None, description="0 keeps all tokens.")
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=100)] | None = Field(None, description="1 is none.")
    presence_penalty: _Penalty | None = Field(None, description="Taken from logits of tokens that the answer has.")
    frequency_penalty: _Penalty | None = Field(None, description="The same, times how often it has them.")
    logit_bias: Annotated[dict[_IdText, _Bias], Field(max_length=1024)] | None = Field(
        None, description='Token ids as text and what is added to their logits: {"1234": -100}.'
    )
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = Field(
        None, description="The same seed gives the same answer, whatever else the server does."
    )
    stop: _Stop | Annotated[list[_Stop], Field(max_length=64, fail_fast=True)] | None = Field(
        None, description="The answer ends before the first of these; they may span tokens."
    )
    ignore_eos: bool | None = Field(None, description="Go on after the model's own end, up to the longest length.")
    skip_special_tokens: bool | None = Field(None, description="Default true.")
    min_new_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    bad_words: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1024, fail_fast=True)] | None = (
        Field(None, description="Each must be one token.")
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024, fail_fast=True)] | None = None

    def generation_config(self, max_new_tokens: int, logprobs: int | None = None) -> GenerationConfig:
        """The engine's settings of one answer."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token_id): bias for token_id, bias in (self.logit_bias or {}).items()} or None,
            random_seed=None if self.seed is None else self.seed % 2**64,
            stop_words=stop or None,
            ignore_eos=bool(self.ignore_eos),
            skip_special_tokens=self.skip_special_tokens is not False,
            min_new_tokens=self.min_new_tokens,
            bad_words=self.bad_words or None,
            stop_token_ids=self.stop_token_ids or None,
            logprobs=logprobs,
        )


class Usage(Answer):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ErrorBody(Answer):
    """What went wrong: in words, of which kind, in which field, and as a word for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(Answer):
    """Every answer that is not 200."""

    error: ErrorBody
