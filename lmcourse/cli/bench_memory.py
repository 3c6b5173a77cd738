"""`lmcourse bench memory`: what weights, KV cache and the rest take, predicted and measured.

Lesson: 3 (the three parts of memory; the ladder)
"""

from __future__ import annotations

import argparse
from typing import Any

from lmcourse.cli.bench_flags import add_kind, bench_config, bench_model, keep_result

__all__ = ["add_kinds", "run"]

_EXAMPLES = """examples:
  lmcourse bench memory
  lmcourse bench memory --quant-policy 8 --cache-max-entry-count 0.5
  LMCOURSE_DEVICE_MEMORY_GIB=8 lmcourse bench memory dummy:internlm2-1_8b --ladder      the lesson's three figures
  LMCOURSE_DEVICE_MEMORY_GIB=8 lmcourse bench memory dummy:internlm2-1_8b --ladder \\
      --packed-model dummy:internlm2-1_8b:awq                                         and the fourth, 4-bit weights
"""


def add_kinds(kinds: Any) -> None:
    """Adds memory."""
    parser = add_kind(
        kinds, "memory", help="weights, KV cache, workspace and context: predicted and measured",
        description="Load the model, let it answer once, and tell what takes how much of the device's memory, beside "
        "what arithmetic predicts. LMCOURSE_DEVICE_MEMORY_GIB sets how large the device may look.",
        examples=_EXAMPLES,
    )  # fmt: skip
    parser.add_argument(
        "--ladder",
        action="store_true",
        help="with cache_max_entry_count 0.8, 0.5 and 0.01, one after the other, as the lesson does (default: once)",
    )
    parser.add_argument(
        "--packed-model", metavar="MODEL",
        help="with --ladder: the same model in 4 bits, for the lesson's rung of 2350 MB at 0.01 (default: none)",
    )  # fmt: skip
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """A table, or three and the line through them."""
    from lmcourse.bench import current_commit, describe_machine
    from lmcourse.bench.ladder import format_ladder, format_packed_rung, measure_ladder
    from lmcourse.bench.memory import measure_memory
    from lmcourse.errors import ConfigError
    from lmcourse.text.hub import find_model

    model, config = bench_model(args), bench_config(args)
    if args.packed_model and not args.ladder:
        raise ConfigError("--packed-model is a rung of the ladder", expected="--ladder", where="--packed-model")
    folder = find_model(model)
    if args.ladder:
        rungs = measure_ladder(folder, config, model=model)
        print(format_ladder(rungs))
        if args.packed_model:
            packed = find_model(args.packed_model)
            rungs += measure_ladder(packed, config, shares=(0.01,), model=args.packed_model)
            print(rungs[-1], format_packed_rung(rungs[-2], rungs[-1]), sep="\n\n")
    else:
        rungs = [measure_memory(folder, config, model=model)]
        print(rungs[0])
    head = {"benchmark": "memory", "model": model, "commit": current_commit(), "machine": describe_machine()}
    keep_result(args, {**head, "rungs": [rung.to_json() for rung in rungs]})
    return 0
