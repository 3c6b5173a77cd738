"""Flags that the kinds of `lmcourse bench` share, and what happens to their results.

Lesson: 3 (predict, then measure)
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcourse.cli.flags import ENGINE_FLAGS, add_flags, engine_config

if TYPE_CHECKING:
    from lmcourse.config import TurbomindEngineConfig

__all__ = ["add_kind", "add_result_flags", "bench_config", "bench_model", "keep_result", "whole_number"]


def add_kind(kinds: Any, name: str, *, help: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with a model, the engine's flags and those of results."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        name,
        help=help,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="model folder or name; dummy:internlm2-1_8b and dummy:llama2-7b have random weights "
        "(default: the course's model: LMCOURSE_MODEL, or tiny-chat)",
    )
    add_result_flags(parser)
    group = parser.add_argument_group("engine")
    add_flags(group, ENGINE_FLAGS)
    group.add_argument("--no-cuda-graphs", action="store_true",
                       help="launch the kernels of each step one by one (default: replay recorded steps)")  # fmt: skip
    group.add_argument("--no-overlap", action="store_true",
                       help="prepare a step only when the one before is done (default: overlap on CUDA)")  # fmt: skip
    return parser


def add_result_flags(parser: argparse.ArgumentParser) -> None:
    """Where a result goes."""
    group = parser.add_argument_group("results")
    group.add_argument("--out", "--output", type=Path, metavar="FILE", help="write JSON (default: print only)")
    group.add_argument("--ledger", type=Path, metavar="FILE", help="add a line to this ledger (default: none)")
    group.add_argument("--note", metavar="TEXT", help="kept with the result, e.g. what bounds it (default: none)")
    group.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads (default: as torch chooses)")


def whole_number(text: str) -> int:
    """For argparse: 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return value


def bench_model(args: argparse.Namespace) -> str:
    """The model's name, and the threads it runs with; what will be written can be, or StorageError."""
    from lmcourse.bench import check_writable
    from lmcourse.text.hub import course_model

    for path in filter(None, (args.out, args.ledger)):
        check_writable(path)

    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    return args.model or course_model()


def bench_config(args: argparse.Namespace, *, longest: int | None = None, batch: int = 1) -> TurbomindEngineConfig:
    """The engine's settings; sessions and batches as large as the workload, unless given."""
    config = engine_config(args)
    return dataclasses.replace(
        config,
        session_len=config.session_len or longest,
        max_batch_size=max(batch, config.max_batch_size),
        cuda_graphs=not args.no_cuda_graphs,
        overlap=False if args.no_overlap else None,
    )


def keep_result(args: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Write the result where it was asked for."""
    from lmcourse.bench import append_to_ledger, write_json

    noted: Mapping[str, Any] = {**result, "note": args.note} if args.note else result
    if args.out:
        write_json(args.out, noted)
    if args.ledger:
        append_to_ledger(args.ledger, noted)
