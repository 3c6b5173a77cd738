"""`lmcourse chat`: talk with a model in the terminal. An empty line sends what was typed; answers appear as they come.

    exit or Ctrl-D   leave             end      forget the conversation and go on
    Ctrl-C           during an answer: stop it; at the prompt: drop what was typed, twice: leave

The flags are those of `lmdeploy chat` (0.3.0), and sampling's. Unlike there, answers are greedy unless a sampling flag
is given, so that a conversation can be repeated.

Lesson: 1 (first words from the model), 2 (chat with the engine)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmcourse.cli.flags import (
    ENGINE_FLAGS,
    LESSON_FLAGS,
    SAMPLING_FLAGS,
    TEMPLATE_FLAGS,
    add_flags,
    engine_config,
    explain_lesson_flags,
    generation_config,
    template_config,
)
from lmcourse.config import GenerationConfig, Response
from lmcourse.errors import PromptError

if TYPE_CHECKING:
    from lmcourse.pipeline import AnswerStream, Pipeline, Session

__all__ = ["add_parser", "run"]

_PROMPT = "double enter to end input >>> "
_EXAMPLES = """examples:
  lmcourse chat                                              the course's model
  lmcourse chat ~/internlm2-chat-1_8b --cache-max-entry-count 0.5
  lmcourse chat tiny-chat --temperature 0.8 --top-p 0.9 --seed 7
"""


def add_parser(subparsers: Any) -> None:
    """Adds `chat`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "chat",
        help="talk with a model in the terminal",
        description="Talk with a model. An empty line sends what was typed; `end` forgets the talk, `exit` leaves.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = "the course's model: LMCOURSE_MODEL, or tiny-chat"
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"model folder or name (default: {default})")
    add_flags(parser.add_argument_group("what the model sees"), TEMPLATE_FLAGS)
    add_flags(parser.add_argument_group("engine"), ENGINE_FLAGS)
    add_flags(parser.add_argument_group("answers (greedy unless a sampling flag is given)"), SAMPLING_FLAGS)
    add_flags(parser.add_argument_group("flags of LMDeploy that change nothing here"), LESSON_FLAGS)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Settings are checked before the model is loaded."""
    gen, config, template = generation_config(args), engine_config(args), template_config(args)
    explain_lesson_flags(args)
    from lmcourse.pipeline import pipeline

    if sys.stdin is None:  # closed by whoever started us, which is an input that has ended
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (it stays open as long as the process)
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (its import gives input() arrow keys and a history)
    if sys.stderr.isatty():
        print("loading ...", file=sys.stderr)
    with pipeline(args.model, backend_config=config, chat_template_config=template) as pipe:
        print(_describe(pipe, gen))
        _converse(pipe, gen)
    return 0


def _describe(pipe: Pipeline, gen: GenerationConfig) -> str:
    stats = pipe.stats()
    how = "sampled" if gen.samples else "greedy"
    return (
        f"{pipe.engine.spec.family}, template {pipe.template.name}, {how} answers; "
        f"sessions of {stats.session_len} tokens, {stats.num_blocks} KV blocks\n"
        "`exit` leaves, `end` forgets the conversation\n"
    )


def _converse(pipe: Pipeline, gen: GenerationConfig) -> None:
    """One turn after the other, until the input ends or says so."""
    session = pipe.session()
    for text in _read_inputs():
        if text == "exit":
            return
        if text == "end":
            session.close()
            session = pipe.session()
            print("The conversation is forgotten.\n")
            continue
        try:
            _answer(session, text, gen)
        except PromptError as error:
            advice = "\n  `end` forgets the conversation and makes room" if session.history else ""
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


def _answer(session: Session, text: str, gen: GenerationConfig) -> None:
    timer = _Timer(time.perf_counter())
    with session.stream(text, gen) as stream:
        try:
            _show(stream, timer)
        except KeyboardInterrupt:
            stream.close()
            print(" [stopped]", end="")
    print(f"\n{timer.report(session.response)}\n", flush=True)


def _show(stream: AnswerStream, timer: _Timer) -> None:
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
