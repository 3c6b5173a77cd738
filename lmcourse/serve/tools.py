"""Tools: OpenAI's form of tools and calls to the template's, and the template's back to OpenAI's.

    tools, tool_calls, tool messages ─→ messages of the template       (write_messages)
    tool_choice, response_format     ─→ a grammar                      (write_grammar)
    the model's text                 ─→ content and tool_calls deltas  (CallSplitter)

A call always names one of the tools and has arguments of its schema: the grammar sees to it.

Lesson: 5 (tools)
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

from lmcourse.errors import ConfigError, PromptError
from lmcourse.serve.grammar import Grammar, json_rule
from lmcourse.serve.json_form import closed
from lmcourse.serve.schema import ChatMessage, ChatRequest, NamedTool, Tool
from lmcourse.text.chat_template import ChatTemplate
from lmcourse.text.template import Message
from lmcourse.text.tool_format import ToolFormat

__all__ = ["CallSplitter", "tool_format", "write_grammar", "write_messages"]

_NO_PARAMETERS = {"type": "object", "properties": {}}


def tool_format(body: ChatRequest, template: ChatTemplate) -> ToolFormat | None:
    """How the model calls the request's tools, if it has any; ConfigError if it was taught no way to."""
    if not body.tools:
        return None
    if template.tools is None:
        raise ConfigError(f"the {template.name} template knows no tools", where="tools", next_step="leave tools out")
    return template.tools


def write_messages(body: ChatRequest, template: ChatTemplate) -> str | list[Message]:
    """The conversation in the template's roles; the tools are listed after the system's messages."""
    if isinstance(body.messages, str) and not body.tools:
        return body.messages
    given = [ChatMessage(role="user", content=body.messages)] if isinstance(body.messages, str) else body.messages
    messages = [_write_message(i, message, template) for i, message in enumerate(given)]
    form = tool_format(body, template)
    if form is not None:
        place = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
        messages.insert(place, form.list_message([_describe(tool) for tool in body.tools or ()]))
    return messages


def _write_message(index: int, message: ChatMessage, template: ChatTemplate) -> Message:
    written = message.model_dump(include={"role", "content", "name"}, exclude_none=True)
    if message.role == "developer":
        return {**written, "role": "system"}
    if message.role != "tool" and not message.tool_calls:
        return written
    form = template.tools
    if form is None or message.role not in ("tool", "assistant"):
        raise PromptError(
            "there is no place for tools here", expected="tool_calls of an assistant, and a template that knows tools",
            got=f"{message.role}, {template.name}", where=f"message {index}",
        )  # fmt: skip
    if message.role == "tool":
        return form.result_message(written.get("content") or "")
    calls = [form.write_call(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    said = written.get("content") or ""
    said = said if isinstance(said, str) else "".join(part.get("text", "") for part in said)
    return {"role": "assistant", "content": said + "".join(calls)}


def _describe(tool: Tool) -> dict[str, Any]:
    function = tool.function
    described = {} if function.description is None else {"description": function.description}
    return {"name": function.name, **described, "parameters": function.parameters or _NO_PARAMETERS}


def write_grammar(body: ChatRequest, form: ToolFormat | None) -> Grammar | None:
    """The grammar of the answer; None: any text."""
    wanted = body.response_format
    answer = None
    if wanted is not None and wanted.type != "text":
        answer = json_rule(wanted.json_schema.schema_ if wanted.json_schema else {"type": "object"})
    tools = _callable_tools(body)
    if form is None or not tools:
        return None if answer is None else Grammar(f"start: {answer}\n")
    marks = " ".join(form.call_marks)
    calls = [
        f'call_{i}: {json.dumps(form.open_call(tool.function.name))} {json_rule(closed(tool.function.parameters))} "}}"'
        for i, tool in enumerate(tools)
    ]
    call = f"{marks} {json.dumps(form.call_lead)} ({' | '.join(f'call_{i}' for i in range(len(calls)))})"
    talks = not isinstance(body.tool_choice, NamedTool) and body.tool_choice != "required" and answer is None
    if isinstance(body.tool_choice, NamedTool) or body.tool_choice == "required":
        start = f"start: {call}"
    elif answer is not None:
        start = f"start: {answer} | {call}"
    else:
        start = f"start: TEXT | TEXT {call}\nTEXT: /(.|\\n)*/"
    return Grammar("\n".join(["%llguidance {}", start, *calls]) + "\n", is_json=not talks)


def _callable_tools(body: ChatRequest) -> Sequence[Tool]:
    if body.tool_choice == "none":
        return ()
    tools = body.tools or []
    choice = body.tool_choice
    return [t for t in tools if t.function.name == choice.function.name] if isinstance(choice, NamedTool) else tools


class CallSplitter:
    """Turns text with special tokens in it into deltas: content up to a call, then the call's name and arguments."""

    def __init__(self, form: ToolFormat) -> None:
        self._form = form
        key = re.escape(json.dumps(form.arguments_key))
        self._opening = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*' + key + r"\s*:\s*(?=\S)")
        self._held = ""  # text that may still be a part of a mark, of the call's opening, or its last brace
        self._in_call = self.called = False

    def push(self, text: str, *, last: bool) -> list[dict[str, Any]]:
        """Deltas that are certain now."""
        self._held += text
        deltas = [] if self._in_call else self._content(last)
        if self._in_call and not self.called:
            deltas += self._open()
        if self.called:
            deltas += self._arguments(last)
        elif last and self._held:  # a call that broke off before it began
            deltas.append({"content": self._held})
        return deltas

    def _content(self, last: bool) -> list[dict[str, Any]]:  # noqa: FBT001 (private)
        mark = self._form.call_marks[0]
        at = self._held.find(mark)
        if at >= 0:
            said, self._held, self._in_call = self._held[:at], self._held[at:], True
        else:
            kept = 0 if last else max(n for n in range(len(mark)) if not n or self._held.endswith(mark[:n]))
            said, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return [{"content": said}] if said else []

    def _open(self) -> list[dict[str, Any]]:
        start = "".join(self._form.call_marks)
        found = self._opening.match(self._held, len(start)) if self._held.startswith(start) else None
        if found is None:
            return []
        self._held, self.called = self._held[found.end() :], True
        function = {"name": found[1], "arguments": ""}
        call = {"index": 0, "id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
        return [{"tool_calls": [call]}]

    def _arguments(self, last: bool) -> list[dict[str, Any]]:  # noqa: FBT001 (private)
        """All but the brace that closes the call and not the arguments."""
        certain = self._held.rstrip()
        certain = certain[:-1] if certain.endswith("}") else certain
        self._held = "" if last else self._held[len(certain) :]
        return [{"tool_calls": [{"index": 0, "function": {"arguments": certain}}]}] if certain else []
