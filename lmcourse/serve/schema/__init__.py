"""What goes over the wire, in OpenAI's shapes and LMDeploy's: the source of the docs page and of the checks.

base          Request (no unknown keys), sampling settings, usage, errors
chat          /v1/chat/completions
completions   /v1/completions
class_view    /class
native        /v1/encode, /v1/chat/interactive, /v1/models, /health
"""

from lmcourse.serve.schema.base import ErrorAnswer, SamplingRequest, StreamOptions, Usage
from lmcourse.serve.schema.chat import ChatAnswer, ChatChunk, ChatMessage, ChatRequest, NamedTool, ResponseFormat, Tool
from lmcourse.serve.schema.class_view import ClassAnswer
from lmcourse.serve.schema.completions import CompletionAnswer, CompletionRequest
from lmcourse.serve.schema.native import (
    EncodeAnswer,
    EncodeRequest,
    HealthAnswer,
    InteractiveAnswer,
    InteractiveRequest,
    ModelCard,
    ModelList,
)

__all__ = [
    "ChatAnswer",
    "ChatChunk",
    "ChatMessage",
    "ChatRequest",
    "ClassAnswer",
    "CompletionAnswer",
    "CompletionRequest",
    "EncodeAnswer",
    "EncodeRequest",
    "ErrorAnswer",
    "HealthAnswer",
    "InteractiveAnswer",
    "InteractiveRequest",
    "ModelCard",
    "ModelList",
    "NamedTool",
    "ResponseFormat",
    "SamplingRequest",
    "StreamOptions",
    "Tool",
    "Usage",
]
