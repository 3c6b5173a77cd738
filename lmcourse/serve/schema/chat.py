"""/v1/chat/completions: OpenAI's chat, with the engine's own sampling settings beside OpenAI's.

Lesson: 5 (the request)
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lmcourse.serve.schema.base import Answer, FinishReason, Request, SamplingRequest, StreamOptions, Usage

__all__ = [
    "AnswerMessage",
    "CalledFunction",
    "ChatAnswer",
    "ChatChoice",
    "ChatChunk",
    "ChatMessage",
    "ChatRequest",
    "ChoiceLogprobs",
    "ChunkChoice",
    "FunctionSpec",
    "ImagePart",
    "ImageUrl",
    "JsonSchema",
    "Messages",
    "NamedTool",
    "ResponseFormat",
    "TextPart",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolName",
    "TopLogprob",
]

_Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class TextPart(Request):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(Request):
    """Where a picture is: in the URL itself (data:image/png;base64,...), or at a public address."""

    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Accepted: the model decides.")


class ImagePart(Request):
    """A picture in a message. Pictures come before the message's text, wherever they stand in it."""

    type: Literal["image_url"]
    image_url: ImageUrl


_Parts = Annotated[
    list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(max_length=1024, fail_fast=True)
]


class CalledFunction(Request):
    """The function an assistant called; arguments is JSON as text."""

    name: _Name
    arguments: str


class ToolCall(Request):
    """A call in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class ChatMessage(Request):
    """One message. `tool` is what a tool answered; `developer` is a newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "environment"]
    content: str | _Parts | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=1024, fail_fast=True)] | None = None
    tool_call_id: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None


Messages = Annotated[list[ChatMessage], Field(max_length=4096, fail_fast=True)]


class FunctionSpec(Request):
    """A function the model may call."""

    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema; left out: no parameters.")
    strict: bool | None = Field(None, description="Accepted: arguments always follow the schema.")


class Tool(Request):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionSpec


class ToolName(Request):
    """The name of a tool."""

    name: _Name


class NamedTool(Request):
    """tool_choice that names the tool to call."""

    type: Literal["function"]
    function: ToolName


class JsonSchema(Request):
    """The schema of a json_schema answer."""

    name: _Name = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema", default_factory=dict)
    strict: bool | None = Field(None, description="Accepted: the answer always follows the schema.")


class ResponseFormat(Request):
    """What the answer must be: any text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_goes_with_its_type(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("json_schema is given exactly when type is 'json_schema'")
        return self


class ChatRequest(SamplingRequest):
    """A conversation to go on with."""

    model: str
    messages: Annotated[str, Field(min_length=1)] | Annotated[Messages, Field(min_length=1)] = Field(
        description="A text is one message of the user."
    )
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="Longest answer in tokens; default: what the session has room for."
    )
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="The newer name of max_tokens."
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="Needs logprobs: true.")
    return_tokens_as_token_ids: bool | None = Field(
        None, description='vLLM\'s: logprobs name tokens "token_id:1234", since several may read alike.'
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = Field(None, description="Needs stream: true.")
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=1024, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        None, description="Default: auto if there are tools."
    )
    parallel_tool_calls: bool | None = Field(None, description="Accepted: the model calls one tool at a time.")
    user: str | None = Field(None, description="Accepted and not kept.")
    session_id: int | None = Field(None, description="LMDeploy's; accepted and not needed.")
    store: bool | None = Field(None, description="Accepted: nothing is stored.")
    metadata: dict[str, Any] | None = Field(None, description="Accepted and not kept.")
    service_tier: str | None = Field(None, description="Accepted: there is one.")
    modalities: list[Literal["text"]] | None = Field(None, description="Answers are text.")
    safety_identifier: str | None = Field(None, description="Accepted and not kept.")
    prompt_cache_key: str | None = Field(None, description="Accepted: prefixes are found without it.")

    @model_validator(mode="after")
    def _fields_fit_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}, which is not among the tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice 'required' needs tools")
        formed = bool(names) or (self.response_format is not None and self.response_format.type != "text")
        if formed and (self.ignore_eos or self.min_new_tokens or self.bad_words):
            raise ValueError("ignore_eos, min_new_tokens and bad_words do not go with tools or a response_format")
        return self


class TopLogprob(Answer):
    """A token that might have come."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that came: natural logarithm of its probability, from the raw logits."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(Answer):
    """One entry per token."""

    content: list[TokenLogprob]


class AnswerMessage(Answer):
    """What the model said; content is null where it only called a tool."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(Answer):
    """One of n answers."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] = Field(description="Not in OpenAI's interface.")


class ChatAnswer(Answer):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChunkChoice(Answer):
    """What is new in one of n answers."""

    index: int
    delta: dict[str, Any]
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] = Field(description="Not in OpenAI's interface: a piece may be several tokens.")


class ChatChunk(Answer):
    """One piece of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
