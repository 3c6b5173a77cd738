"""`lmcourse bench serve URL`: load for a running server; throughput, latencies, goodput.

Lesson: 5 (measuring a server)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_serve", "run_serve"]

_EXAMPLES = """examples:
  lmcourse bench serve http://localhost:23333
  lmcourse bench serve http://localhost:23333 --request-rate 8 --num-requests 200 --goodput 500 50
  lmcourse bench serve https://host/v1 --api-key KEY --model NAME --let-stop --output serve.json
"""


def add_serve(kinds: Any) -> None:
    """Adds `serve`."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "serve",
        help="a running server: throughput, TTFT, TPOT, ITL, goodput",
        description="Ask a server of OpenAI's interface many things and time every token. Times are those of this "
        "program, so they include the way there; run it on another machine than the server for honest load.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("url", metavar="URL", help="the server's address, such as http://localhost:23333")
    add("--num-requests", type=int, default=64, metavar="N", help="requests (default: 64)")
    add("--request-rate", type=float, metavar="R", help="requests per second, at random moments (default: all at once)")
    add("--max-concurrency", type=int, default=64, metavar="N", help="most requests in flight (default: 64)")
    add("--prompt-words", type=int, nargs=2, default=(16, 128), metavar=("MIN", "MAX"),
        help="prompt lengths in words (default: 16 128)")  # fmt: skip
    add("--output-tokens", type=int, nargs=2, default=(16, 128), metavar=("MIN", "MAX"),
        help="answer lengths in tokens (default: 16 128)")  # fmt: skip
    add("--let-stop", action="store_true",
        help="answers end by themselves, for servers without ignore_eos (default: they do not)")  # fmt: skip
    add("--goodput", type=float, nargs=2, metavar=("TTFT", "TPOT"),
        help="count requests within these milliseconds (default: not counted)")  # fmt: skip
    add("--model", metavar="NAME", help="which of the server's models (default: its first)")
    add("--api-key", metavar="KEY", help="key that the server asks for (default: none)")
    add("--seed", type=int, default=0, help="of prompts, lengths and moments (default: 0)")
    add("--output", type=Path, metavar="FILE", help="also write the result as JSON (default: no file)")
    parser.set_defaults(func=run_serve)


def run_serve(args: argparse.Namespace) -> int:
    """Status 1 if any request failed."""
    from lmcourse.bench.latency import Promise
    from lmcourse.bench.report import check_writable, write_json
    from lmcourse.bench.serving import Load, measure_server

    if args.output:
        check_writable(args.output)
    load = Load(
        num_requests=args.num_requests,
        request_rate=args.request_rate,
        max_concurrency=args.max_concurrency,
        prompt_words=tuple(args.prompt_words),
        output_tokens=tuple(args.output_tokens),
        ignore_eos=not args.let_stop,
        seed=args.seed,
    )
    promise = Promise(*(milliseconds / 1e3 for milliseconds in args.goodput)) if args.goodput else None
    result = measure_server(args.url, load, api_key=args.api_key, model=args.model, promise=promise)
    print(result)
    if args.output:
        write_json(args.output, result.to_json())
    return int(bool(result.failures))
