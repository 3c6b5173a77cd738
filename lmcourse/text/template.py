"""ChatTemplate: the strings between which a family of models was taught to expect the parts of a conversation.

    begin │ system.before S system.after │ user.before U user.after │ assistant.before A assistant.after │ ... │ cue
           ───────── at most once ──────   ─────────────────── as often as there are turns ────────────   answer here

The cue invites the answer. A template is a row of data (template_table.py), and one class serves them all. BOS is not
part of the text: the tokenizer puts it in front.

Lesson: 2 (what a chat model sees)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lmcourse.errors import ConfigError, PromptError
from lmcourse.text.pictures import Part, is_pictured, pictured_message, read_parts
from lmcourse.text.tool_format import ToolFormat

__all__ = ["ChatTemplate", "Message", "Turn", "check_messages"]

Message = dict[str, Any]  # {"role": ..., "content": ...}, as in OpenAI's chat interface; content may be in parts

_FILL = "<FILL>"


class Turn(NamedTuple):
    """What stands before and after the content of a message; {round} becomes the number of the user's turn."""

    before: str = ""
    after: str = ""


_BARE = Turn()


@dataclass(frozen=True)
class ChatTemplate:
    """How one family writes a conversation down."""

    name: str
    user: Turn = _BARE
    assistant: Turn = _BARE
    system: Turn | None = None  # None: the family has no system messages
    begin: str = ""
    cue: str = ""
    stop_words: tuple[str, ...] = ()
    default_system: str = ""  # used when the messages bring none of their own
    extra: tuple[tuple[str, Turn], ...] = ()  # further roles
    names: tuple[str, ...] = ()  # of message names, those that a header shows, as in `system name=<|plugin|>`
    alternates: bool = False  # user and assistant must take turns
    infilling: tuple[str, str, str] | None = None  # before the prefix, the suffix and the middle
    capability: str = "chat"
    adds_bos: bool = True
    tools: ToolFormat | None = None  # None: the family was taught no calls
    picture: str = "{mark}\n"  # how a picture stands before its message's text; {ordinal} counts the conversation's
    pictures: str | None = None  # how each of several does, {number} counting from 0; None: as one does

    def render(self, messages: str | Sequence[Message], mark: str = "") -> str:
        """The prompt for a conversation, without BOS; a str is one message of the user. May raise PromptError.

        mark stands where a picture's features will be: in front of its message's text, wherever the message had it.
        """
        turns = self._write_all(check_messages(messages), mark)
        if self.capability != "chat":
            text = "".join(turn["content"] for turn in turns)
            return text if self.capability == "completion" else self._render_infilling(text)
        if turns[0]["role"] != "system" and self.default_system:
            turns = [{"role": "system", "content": self.default_system}, *turns]
        self._check_roles(turns)
        rounds = 0
        parts = [self.begin]
        for turn in turns:
            rounds += turn["role"] == "user"
            before, after = self._sides(turn)
            parts += [before.replace("{round}", str(rounds)), turn["content"], after]
        return "".join([*parts, self.cue])

    def _write_all(self, messages: Sequence[Message], mark: str) -> list[Message]:
        """Every content as text."""
        written, seen = [], 0
        for message in messages:
            parts: list[Part] = message["content"] if not isinstance(message["content"], str) else []
            count = sum(part["type"] == "image" for part in parts)
            form = self.pictures if self.pictures is not None and count > 1 else self.picture
            numbered = [
                form.replace("{number}", str(number)).replace("{ordinal}", str(seen + number + 1))
                for number in range(count)
            ]
            marks = [picture.replace("{mark}", mark) for picture in numbered]
            texts = [part["text"] for part in parts if part["type"] == "text"]
            written.append({**message, "content": "".join([*marks, *texts]) if parts else message["content"]})
            seen += count
        return written

    def _sides(self, turn: Message) -> Turn:
        sides = self._turns()[turn["role"]]
        if turn.get("name") not in self.names:
            return sides
        return Turn(sides.before.replace("\n", f" name=<|{turn['name']}|>\n", 1), sides.after)

    def _turns(self) -> dict[str, Turn]:
        own = {"user": self.user, "assistant": self.assistant, **dict(self.extra)}
        return own if self.system is None else own | {"system": self.system}

    def _check_roles(self, turns: Sequence[Message]) -> None:
        known = self._turns()
        for i, turn in enumerate(turns):
            if turn["role"] not in known:
                raise PromptError(
                    f"the {self.name} template has no place for a {turn['role']!r} message",
                    expected=" | ".join(known),
                    got=turn["role"],
                    where=f"message {i}",
                    next_step="put its text into the user's message",
                )
        roles = [turn["role"] for turn in turns if turn["role"] != "system"]
        if not roles:
            raise PromptError("the conversation has no message to answer", expected="a user message", got="system only")
        if self.alternates and roles != [("user", "assistant")[i % 2] for i in range(len(roles) | 1)]:
            raise PromptError(
                f"the {self.name} template knows only user and assistant in turn, the user last",
                expected="user, assistant, ..., user",
                got=", ".join(roles),
                next_step="join neighbouring messages of one role into one",
            )

    def _render_infilling(self, text: str) -> str:
        if text.count(_FILL) != 1 or self.infilling is None:
            gaps = f"{text.count(_FILL)} of them"
            raise PromptError("infilling needs one marked gap", expected=f"a text with one {_FILL}", got=gaps)
        prefix, suffix = text.split(_FILL)
        return self.infilling[0] + prefix + self.infilling[1] + suffix + self.infilling[2]

    def adapted(self, meta_instruction: str | None, capability: str) -> ChatTemplate:
        """The same template with another system prompt ("" for none) and capability, or ConfigError."""
        if capability == "infilling" and self.infilling is None:
            raise ConfigError(
                f"the {self.name} template cannot fill gaps",
                expected="a model trained for infilling (codellama)",
                got="capability='infilling'",
                next_step="leave capability at 'chat', or name another template",
            )
        if meta_instruction and (self.system is None or capability != "chat"):
            raise ConfigError(
                f"the {self.name} template has no system prompt to replace (capability {capability!r})",
                expected="no meta_instruction",
                got=repr(meta_instruction[:60]),
                next_step="put the instruction into the user's message",
            )
        default = self.default_system if meta_instruction is None else meta_instruction
        return dataclasses.replace(self, default_system=default, capability=capability)


def check_messages(messages: object) -> list[Message]:
    """A conversation as a list of messages with a role and a text, or with parts where there are pictures."""
    if is_pictured(messages):
        messages = [pictured_message(messages)]  # type: ignore[arg-type]
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, (bytes, dict)) or not isinstance(messages, Sequence):
        raise _bad_message("a conversation is a text or a list of messages", type(messages).__name__, None)
    if not messages:
        raise PromptError("the conversation is empty", expected="at least one message", got="[]")
    checked = [_check_message(i, message) for i, message in enumerate(messages)]
    if not checked[-1]["content"] and checked[-1]["role"] in ("system", "user", "assistant"):  # a tool may say nothing
        raise PromptError("the prompt is empty", expected="a text of at least one character", got="''")
    return checked


def _check_message(index: int, message: object) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _bad_message("a message needs a role", repr(message)[:80], index)
    content = message.get("content")
    read = read_parts(content) if isinstance(content, list) else content
    if not isinstance(read, str | list):
        raise _bad_message("a message's content must be text, or parts of text and images", repr(content)[:80], index)
    return {**message, "content": read}


def _bad_message(what: str, got: str, index: int | None) -> PromptError:
    return PromptError(
        what,
        expected='[{"role": "user", "content": "hello"}]',
        got=got,
        where=None if index is None else f"message {index}",
    )
