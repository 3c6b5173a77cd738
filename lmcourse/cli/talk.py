"""Talking in the terminal: read what is typed, print the answer as it comes, with its times. `chat` and `api_client`.

    exit or Ctrl-D   leave             end      forget the conversation and go on
    Ctrl-C           during an answer: stop it; at the prompt: drop what was typed, twice: leave

Contract: the partner is a Pipeline or a Client. A prompt that is refused leaves the conversation as it was.

Lesson: 1 (first words from the model), 5 (the command-line client)
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from lmcourse.config import GenerationConfig, Response
from lmcourse.errors import PromptError, ServerBusyError
from lmcourse.text.session import PieceStream

__all__ = ["Conversation", "Partner", "converse", "prepare_keyboard"]

_PROMPT = "double enter to end input >>> "


class Conversation(Protocol):
    """What is needed of a session."""

    @property
    def history(self) -> list[tuple[str, str]]: ...

    @property
    def response(self) -> Response | None: ...

    def stream(self, prompt: str, gen: GenerationConfig | None = None) -> PieceStream: ...

    def close(self) -> None: ...


class Partner(Protocol):
    """What is needed of a pipeline or client: conversations that have not begun."""

    def session(self) -> Conversation: ...


def prepare_keyboard() -> None:
    """Arrow keys and a history where someone types; an input that was closed becomes one that has ended."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (it stays open as long as the process)
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (its import gives input() what was promised)


def converse(partner: Partner, gen: GenerationConfig, note: Callable[[str, Response], None] | None = None) -> None:
    """One turn after the other, until the input ends or says so; `note` is told each."""
    session = partner.session()
    for text in _read_inputs():
        if text == "exit":
            return
        if text == "end":
            session.close()
            session = partner.session()
            print("The conversation is forgotten.\n")
            continue
        try:
            _answer(session, text, gen)
            if note is not None and session.response is not None:
                note(text, session.response)
        except (PromptError, ServerBusyError) as error:
            advice = (
                "\n  `end` forgets the conversation and makes room"
                if isinstance(error, PromptError) and session.history
                else ""
            )
            print(f"{error}{advice}\n", file=sys.stderr)


def _read_inputs() -> Iterator[str]:
    """What is typed, up to an empty line each; the end of the input sends what is there and ends the conversation."""
    interrupted = False
    while True:
        lines: list[str] = []
        try:
            for line in _typed_lines():
                lines.append(line)
                interrupted = False
        except EOFError:
            if lines:
                yield "\n".join(lines).strip()
            print()
            return
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = not lines
            print("\nCtrl-C again leaves" if interrupted else "\ndropped")
            continue
        if text := "\n".join(lines).strip():
            yield text


def _typed_lines() -> Iterator[str]:
    """Lines up to an empty one; empty lines before the first are skipped."""
    line = input(_PROMPT)
    while not line:
        line = input()
    while line:
        yield line
        line = input()


def _answer(session: Conversation, text: str, gen: GenerationConfig) -> None:
    timer = _Timer(time.perf_counter())
    with session.stream(text, gen) as stream:
        try:
            _show(stream, timer)
        except KeyboardInterrupt:
            stream.close()
            print(" [stopped]", end="")
    print(f"\n{timer.report(session.response)}\n", flush=True)


def _show(stream: PieceStream, timer: _Timer) -> None:
    for piece in stream:
        timer.note(piece.generate_token_len)
        print(piece.text, end="", flush=True)


@dataclass
class _Timer:
    """Times of one answer, in seconds of time.perf_counter."""

    started: float
    first: float | None = None
    last: float | None = None
    num_tokens: int = 0

    def note(self, num_tokens: int) -> None:
        """So many tokens have come by now."""
        if num_tokens > self.num_tokens:
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.num_tokens = num_tokens

    def report(self, response: Response | None) -> str:
        """One line; the rate leaves out the first token, whose time is that of the prompt."""
        if self.first is None or self.last is None:
            return "[no tokens]"
        parts = [f"{self.num_tokens} tokens", f"the first after {self.first - self.started:.2f} s"]
        if self.num_tokens > 1 and self.last > self.first:
            parts.append(f"then {(self.num_tokens - 1) / (self.last - self.first):.1f} tokens/s")
        if response is not None and response.finish_reason == "length":
            parts.append("cut at the longest length (--max-new-tokens, --session-len)")
        return f"[{', '.join(parts)}]"
