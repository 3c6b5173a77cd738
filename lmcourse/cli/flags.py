"""Flags that several commands share, as rows: LMDeploy 0.3.0's names and defaults, with what each default means.

A row's help ends with its default, so that every `-h` tells it the same way.

Lesson: 2 (passing engine parameters)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lmcourse.config import ChatTemplateConfig, GenerationConfig, TurbomindEngineConfig

__all__ = [
    "ENGINE_FLAGS",
    "LESSON_FLAGS",
    "SAMPLING_FLAGS",
    "TEMPLATE_FLAGS",
    "Flag",
    "add_flags",
    "engine_config",
    "explain_lesson_flags",
    "generation_config",
    "template_config",
]


@dataclass(frozen=True)
class Flag:
    """One option; `shown` is what the help calls the default where the value itself says too little."""

    name: str
    help: str
    unit: str | None = None  # metavar
    kind: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[str, ...] | None = None
    shown: str | None = None

    @property
    def key(self) -> str:
        """The attribute of the parsed arguments."""
        return self.name.removeprefix("--").replace("-", "_")


TEMPLATE_FLAGS = (
    Flag("--model-name", "chat template, such as internlm2 or vicuna", "NAME", shown="chosen from the model"),
    Flag("--meta-instruction", "system prompt", "TEXT", shown="the template's"),
    Flag(
        "--cap",
        "what the model does with the text",
        default="chat",
        choices=("chat", "completion", "infilling"),
    ),
)

ENGINE_FLAGS = (
    Flag("--model-format", "how the weights are stored", choices=("hf", "awq", "turbomind"), shown="detected"),
    Flag("--session-len", "most tokens of a conversation", "TOKENS", int, shown="the model's context"),
    Flag("--max-batch-size", "requests run at the same time", "N", int, 128),
    Flag(
        "--cache-max-entry-count",
        "KV cache: share of the memory that is free once the weights are loaded; 1 or more: number of blocks",
        "SHARE",
        float,
        0.8,
    ),
    Flag("--cache-block-seq-len", "tokens of a KV block", "TOKENS", int, 64),
    Flag(
        "--enable-prefix-caching",
        "keep the blocks of prompts that begin alike, such as a system prompt",
        kind=bool,
        default=False,
        shown="off",
    ),
    Flag(
        "--quant-policy",
        "bits of the KV cache: 8 int8, 4 int4, 0 as computed; LMDeploy 0.3.0's 4 is today's 8",
        "BITS",
        int,
        0,
    ),
    Flag(
        "--rope-scaling-factor",
        "dynamic NTK beyond the trained context; 0: as the model says",
        "FACTOR",
        float,
        0.0,
    ),
    Flag("--tp", "GPUs to spread the model over", "N", int, 1),
    Flag(
        "--dtype",
        "of the computation",
        default="auto",
        choices=("auto", "float16", "bfloat16", "float32"),
        shown="auto, float32 on the CPU",
    ),
    Flag("--revision", "branch, tag or commit of a hub's model", "NAME", shown="the hub's"),
    Flag("--download-dir", "where a hub's model is stored", "FOLDER", shown="the hub's cache"),
)

SAMPLING_FLAGS = (
    Flag("--max-new-tokens", "longest answer", "TOKENS", int, 1024),
    Flag("--temperature", "divides the logits; 0: greedy", "T", float, shown="1 when sampling"),
    Flag("--top-p", "draw from the likeliest tokens with this much probability", "P", float, shown="1, all"),
    Flag("--top-k", "draw from so many likeliest tokens", "K", int, shown="0, all"),
    Flag("--repetition-penalty", "above 1: tokens already seen become less likely", "R", float, 1.0),
    Flag("--seed", "makes sampling repeatable; sampling alone if nothing else is given", "N", int, shown="none"),
)

# accepted so that the lesson's commands run as printed; each says what it changes here: nothing
LESSON_FLAGS = (
    Flag(
        "--backend",
        "accepted as in LMDeploy; there is one engine here",
        default="turbomind",
        choices=("turbomind", "pytorch"),
    ),
)


def add_flags(group: Any, flags: Sequence[Flag]) -> None:
    """Add rows to a parser or argument group."""
    for flag in flags:
        shown = flag.default if flag.shown is None else flag.shown
        told = f"{flag.help} (default: {shown})".replace("%", "%%")
        if flag.kind is bool:
            group.add_argument(flag.name, help=told, action="store_true")
            continue
        group.add_argument(
            flag.name,
            help=told,
            metavar=flag.unit if flag.choices is None else None,
            type=flag.kind,
            default=flag.default,
            choices=flag.choices,
        )
    if flags is LESSON_FLAGS:
        group.add_argument(
            "--trust-remote-code",
            action="store_true",
            help="accepted as in LMDeploy; code that comes with a model is never run (default: off)",
        )


def explain_lesson_flags(args: argparse.Namespace) -> None:
    """Say on stderr what the flags of LMDeploy that change nothing here would have changed there."""
    if args.backend == "pytorch":
        print("--backend pytorch: there is one engine here, and it runs this model", file=sys.stderr)
    if args.trust_remote_code:
        print("--trust-remote-code: nothing remote runs; the engine has its own code for every model", file=sys.stderr)


def engine_config(args: argparse.Namespace) -> TurbomindEngineConfig:
    """The engine's settings; ConfigError for a value out of range."""
    return TurbomindEngineConfig(**{flag.key: getattr(args, flag.key) for flag in ENGINE_FLAGS})


def template_config(args: argparse.Namespace) -> ChatTemplateConfig:
    """Which chat template, and what replaces its parts."""
    return ChatTemplateConfig(args.model_name, args.meta_instruction, args.cap)


def generation_config(args: argparse.Namespace) -> GenerationConfig:
    """How answers are drawn: greedily, unless a sampling flag was given."""
    return GenerationConfig(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        repetition_penalty=args.repetition_penalty,
        random_seed=args.seed,
    )
