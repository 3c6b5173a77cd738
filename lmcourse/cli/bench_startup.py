"""`lmcourse bench startup`: seconds from the start of a process until a model is ready to serve.

Lesson: 5 (restarting a server)
"""

from __future__ import annotations

import argparse
from typing import Any

from lmcourse.cli.bench_flags import add_kind, bench_config, bench_model, keep_result, whole_number

__all__ = ["add_kinds", "run"]

_EXAMPLES = """examples:
  lmcourse bench startup
  lmcourse bench startup dummy:internlm2-1_8b --repeats 2      the second start finds compiled kernels on disk
"""


def add_kinds(kinds: Any) -> None:
    """Adds startup."""
    parser = add_kind(
        kinds, "startup", help="seconds from the start of a process to the first answer",
        description="Start processes that load the model and give a first answer, one after the other, and tell when "
        "each stage was over.",
        examples=_EXAMPLES,
    )  # fmt: skip
    parser.add_argument("--repeats", type=whole_number, default=2, metavar="N", help="starts (default: 2)")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """The last start counts."""
    from lmcourse.bench import current_commit, describe_machine, measure_startup
    from lmcourse.models.engine_format import detect_format
    from lmcourse.text.hub import find_model

    model, config = bench_model(args), bench_config(args)
    machine = describe_machine()
    print(f"{model} on {machine['gpu'] or machine['cpu']}, seconds since the start of the process", flush=True)
    starts = []
    for _ in range(args.repeats):
        starts.append(measure_startup(model, config))
        print("  ".join(f"{name} {seconds:.1f}" for name, seconds in starts[-1].items()), flush=True)
    result = {
        "benchmark": "startup", "model": model, "weight_format": detect_format(find_model(model)),
        "dtype": "float16" if machine["gpu"] else "float32",
        "commit": current_commit(), "settings": {"quant_policy": config.quant_policy}, "starts": starts,
        "ready_seconds": starts[-1]["ready"], "machine": machine,
    }  # fmt: skip
    keep_result(args, result)
    return 0
