"""`lmcourse bench`: measure this machine. Today `throughput`; later parts add their own.

Lesson: 2 (the first honest speed comparison)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lmcourse.cli.bench_serve import add_serve

__all__ = ["add_parser", "run_throughput"]

_EXAMPLES = """examples:
  lmcourse bench throughput                          32 requests on the course's model
  lmcourse bench throughput ~/internlm2-chat-1_8b --num-requests 8 --repeats 1
  lmcourse bench throughput --threads 1 --output throughput.json
"""


def add_parser(subparsers: Any) -> None:
    """Adds `bench` and its kinds."""
    parser: argparse.ArgumentParser = subparsers.add_parser("bench", help="measure this machine")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_throughput(kinds)
    add_serve(kinds)


def _add_throughput(kinds: Any) -> None:
    parser: argparse.ArgumentParser = kinds.add_parser(
        "throughput",
        help="many requests: our engine together against transformers' generate one by one",
        description="Run the same requests (token ids, fixed lengths, greedy) through our engine, all together, and "
        "through transformers' generate, one by one: same weights, dtype, device and threads, in turns.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole = _whole_number
    parser.add_argument("model", nargs="?", help="model folder or name (default: the course's model, tiny-chat)")
    parser.add_argument("--num-requests", type=whole, default=32, metavar="N", help="requests (default: 32)")
    parser.add_argument("--prompt-lens", type=whole, nargs=2, default=(16, 256), metavar=("MIN", "MAX"),
                        help="prompt lengths in tokens (default: 16 256)")  # fmt: skip
    parser.add_argument("--output-lens", type=whole, nargs=2, default=(32, 192), metavar=("MIN", "MAX"),
                        help="output lengths in tokens (default: 32 192)")  # fmt: skip
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"),
                        help="of weights and arithmetic (default: auto, float32 on the CPU)")  # fmt: skip
    parser.add_argument("--threads", type=whole, metavar="N", help="CPU threads (default: as torch chooses)")
    parser.add_argument("--repeats", type=whole, default=3, metavar="N", help="timed runs of each side (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and lengths (default: 0)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the result as JSON (default: no file)")
    parser.set_defaults(func=run_throughput)


def _whole_number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return value


def run_throughput(args: argparse.Namespace) -> int:
    import torch

    from lmcourse.bench import compare_throughput, mixed_requests, write_json
    from lmcourse.models import load_spec
    from lmcourse.text.hub import course_model, find_model

    if args.threads:
        torch.set_num_threads(args.threads)
    folder = find_model(args.model or course_model())
    requests = mixed_requests(
        args.num_requests,
        vocab=load_spec(folder).vocab,
        seed=args.seed,
        prompt_lens=tuple(args.prompt_lens),
        output_lens=tuple(args.output_lens),
    )
    print(f"measuring: both sides run {1 + args.repeats} times", flush=True)
    result = compare_throughput(folder, requests, dtype=args.dtype, repeats=args.repeats)
    print(result)
    if args.output:
        write_json(args.output, {**result.to_json(), "seed": args.seed})
    return 0
