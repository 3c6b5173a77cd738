"""`lmcourse chat`: talk with a model in the terminal. An empty line sends what was typed; answers appear as they come.

    exit or Ctrl-D   leave             end      forget the conversation and go on
    Ctrl-C           during an answer: stop it; at the prompt: drop what was typed, twice: leave

The flags are those of `lmdeploy chat` (0.3.0), and sampling's. Unlike there, answers are greedy unless a sampling flag
is given, so that a conversation can be repeated.

Lesson: 1 (first words from the model), 2 (chat with the engine)
"""

from __future__ import annotations

import argparse
import sys
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
from lmcourse.cli.talk import converse, prepare_keyboard
from lmcourse.cli.witness import note_engine, note_turns
from lmcourse.config import GenerationConfig

if TYPE_CHECKING:
    from lmcourse.pipeline import Pipeline

__all__ = ["add_parser", "run"]

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
    note = note_turns("terminal")
    from lmcourse.pipeline import load_pipeline

    prepare_keyboard()
    if sys.stderr.isatty():
        print("loading ...", file=sys.stderr)
    with load_pipeline(args.model, backend_config=config, chat_template_config=template) as pipe:
        note_engine(pipe)
        print(_describe(pipe, gen))
        converse(pipe, gen, note)
    return 0


def _describe(pipe: Pipeline, gen: GenerationConfig) -> str:
    stats = pipe.stats()
    how = "sampled" if gen.samples else "greedy"
    return (
        f"{pipe.engine.spec.family}, template {pipe.template.name}, {how} answers; "
        f"sessions of {stats.session_len} tokens, {stats.num_blocks} KV blocks\n"
        "`exit` leaves, `end` forgets the conversation\n"
    )
