"""ToolFormat: how a family writes tools down: what there is to call, a call, and what came of it.

internlm2, as published by InternLM (chat_format.md):

    <|im_start|>system name=<|plugin|>
    [{"name": "weather", "description": "...", "parameters": {...}}]<|im_end|>
    ...
    <|im_start|>assistant
    <|action_start|><|plugin|>
    {"name": "weather", "parameters": {"city": "Paris"}}<|action_end|><|im_end|>
    <|im_start|>environment name=<|plugin|>
    {"temperature": 21}<|im_end|>

Lesson: 5 (tools)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["INTERNLM2_TOOLS", "ToolFormat"]


@dataclass(frozen=True)
class ToolFormat:
    """The roles of the messages, and the marks around a call, which are special tokens."""

    name: str  # of the messages that list tools and of those that hold results
    list_role: str
    result_role: str
    call_marks: tuple[str, ...]
    call_lead: str
    call_end: str
    arguments_key: str

    @property
    def call_start(self) -> str:
        """What stands before the JSON of a call."""
        return "".join(self.call_marks) + self.call_lead

    def list_message(self, functions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The message that lists functions: dicts of name, description and parameters."""
        content = json.dumps(list(functions), ensure_ascii=False)
        return {"role": self.list_role, "name": self.name, "content": content}

    def result_message(self, content: Any) -> dict[str, Any]:
        """The message that holds what a tool answered."""
        return {"role": self.result_role, "name": self.name, "content": content}

    def write_call(self, name: str, arguments: str) -> str:
        """A call as the assistant wrote it; arguments is JSON as text."""
        return f"{self.call_start}{self.open_call(name)}{arguments}}}{self.call_end}"

    def open_call(self, name: str) -> str:
        """The JSON of a call up to its arguments."""
        return f"{{{json.dumps('name')}: {json.dumps(name)}, {json.dumps(self.arguments_key)}: "


INTERNLM2_TOOLS = ToolFormat(
    name="plugin",
    list_role="system",
    result_role="environment",
    call_marks=("<|action_start|>", "<|plugin|>"),
    call_lead="\n",
    call_end="<|action_end|>",
    arguments_key="parameters",
)
