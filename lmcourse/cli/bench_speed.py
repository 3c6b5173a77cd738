"""`lmcourse bench decode | prefill | throughput`: an engine's speed on fixed workloads, beside the device's limits.

On CUDA the defaults are the workloads that other engines were measured with (`lmcourse bench ledger` shows both); on a
CPU smaller ones. Prompts are random token ids, outputs have fixed lengths, ends of sequence are ignored.

Lesson: 2 (the first honest speed comparison), 3 (predict, then measure)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lmcourse.cli.bench_flags import add_kind, bench_config, bench_model, keep_result, whole_number

if TYPE_CHECKING:
    from lmcourse.bench import Speed, Stand

__all__ = ["add_kinds", "run_decode", "run_prefill", "run_throughput"]

_DECODE_EXAMPLES = """examples:
  lmcourse bench decode                                      the course's model
  lmcourse bench decode dummy:internlm2-1_8b --batch 1 64 --baseline eager compiled
  lmcourse bench decode dummy:llama2-7b --batch 1 --profile --out decode.json
"""
_PREFILL_EXAMPLES = """examples:
  lmcourse bench prefill dummy:internlm2-1_8b
  lmcourse bench prefill tiny-chat --num-tokens 64 1500 --repeats 9
"""
_THROUGHPUT_EXAMPLES = """examples:
  lmcourse bench throughput                                  the course's model
  lmcourse bench throughput --baseline --threads 1 --out throughput.json
  lmcourse bench throughput dummy:internlm2-1_8b --num-requests 256 --prompt-lens 100 1024 --output-lens 100 1024
"""
_HEADER = f"{'':42}{'median':>12} {'':8}{'spread':>8}{'limit':>12}{'reached':>10}"


def add_kinds(kinds: Any) -> None:
    """Adds decode, prefill and throughput."""
    _add_decode(kinds)
    _add_prefill(kinds)
    _add_throughput(kinds)


def _add_decode(kinds: Any) -> None:
    parser = add_kind(
        kinds, "decode", help="tokens/s of requests that decode together, beside the limit",
        description="Decode tokens/s = (N-1)·batch / (t(N outputs) - t(1 output)); the limit is what reading weights "
        "and cache takes at the copy bandwidth measured in the same process.",
        examples=_DECODE_EXAMPLES,
    )  # fmt: skip
    whole = whole_number
    batches = "requests at once, one row each (default: 1 8 64 256 on CUDA, 1 4 16 on a CPU)"
    parser.add_argument("--batch", type=whole, nargs="+", metavar="N", help=batches)
    parser.add_argument("--prompt-len", type=whole, default=128, metavar="TOKENS", help="of each prompt (default: 128)")
    parser.add_argument("--output-len", type=whole, metavar="TOKENS",
                        help="of each answer, N (default: 257 on CUDA, 33 on a CPU)")  # fmt: skip
    parser.add_argument("--repeats", type=whole, default=3, metavar="N", help="timed runs (default: 3)")
    parser.add_argument("--baseline", nargs="+", choices=("eager", "compiled"), default=(),
                        help="transformers beside it: as it comes, and with a static cache, compiled on CUDA "
                        "(default: neither)")  # fmt: skip
    parser.add_argument("--profile", action="store_true",
                        help="print the kernels of a step of the first batch (default: off)")  # fmt: skip
    parser.set_defaults(func=run_decode)


def _add_prefill(kinds: Any) -> None:
    parser = add_kind(
        kinds, "prefill", help="milliseconds from a prompt to its first token",
        description="Milliseconds from a prompt of so many tokens to its first token, beside what its FLOPs take at "
        "the rate of a large matrix product measured in the same process.",
        examples=_PREFILL_EXAMPLES,
    )  # fmt: skip
    lens = "prompt lengths, one row each (default: 1024 3968 on CUDA, 64 256 1024 on a CPU)"
    parser.add_argument("--num-tokens", type=whole_number, nargs="+", metavar="N", help=lens)
    parser.add_argument("--repeats", type=whole_number, default=5, metavar="N", help="timed runs (default: 5)")
    parser.set_defaults(func=run_prefill)


def _add_throughput(kinds: Any) -> None:
    parser = add_kind(
        kinds, "throughput", help="output tokens/s of many requests of mixed lengths",
        description="Give the engine many requests of mixed lengths at once. With --baseline transformers' generate "
        "takes the same requests one by one: same weights, dtype, device and threads, in turns.",
        examples=_THROUGHPUT_EXAMPLES,
    )  # fmt: skip
    whole, pair = whole_number, ("MIN", "MAX")
    parser.add_argument("--num-requests", type=whole, metavar="N", help="(default: 256 on CUDA, 32 on a CPU)")
    parser.add_argument("--prompt-lens", type=whole, nargs=2, metavar=pair,
                        help="tokens, drawn evenly (default: 100 1024 on CUDA, 16 256 on a CPU)")  # fmt: skip
    parser.add_argument("--output-lens", type=whole, nargs=2, metavar=pair,
                        help="tokens, drawn evenly (default: 100 1024 on CUDA, 32 192 on a CPU)")  # fmt: skip
    parser.add_argument("--repeats", type=whole, default=3, metavar="N", help="timed runs (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and lengths (default: 0)")
    parser.add_argument("--baseline", action="store_true", help="transformers beside it, one by one (default: off)")
    parser.set_defaults(func=run_throughput)


def run_decode(args: argparse.Namespace) -> int:
    from lmcourse.bench import measure_decode, open_stand, profile_decode

    batches, outputs = args.batch or _by_device((1, 8, 64, 256), (1, 4, 16)), args.output_len or _by_device(257, 33)
    config = bench_config(args, longest=max(args.prompt_len + outputs, args.prompt_len + 96), batch=max(batches))
    lens = {"prompt_len": args.prompt_len, "output_len": outputs}
    with open_stand(bench_model(args), config) as stand:
        print(f"{stand}\n{_HEADER}", flush=True)
        speeds = []
        for batch in batches:
            speeds.append(measure_decode(stand, batch=batch, repeats=args.repeats, **lens))
            print(speeds[-1], flush=True)
        result: dict[str, Any] = {**stand.head("decode"), **lens}
        if args.profile:
            table = profile_decode(stand, batch=batches[0], prompt_len=args.prompt_len)
            print(f"\n{table}\n", flush=True)
            result["profile"] = table.to_json()
        speeds += _baseline(stand, args.baseline, batches, args.prompt_len)
    keep_result(args, {**result, "speeds": [speed.to_json() for speed in speeds]})
    return 0


def _baseline(stand: Stand, kinds: Sequence[str], batches: Sequence[int], prompt_len: int) -> list[Speed]:
    """transformers at the same batches, with fewer tokens: it takes long."""
    from lmcourse.bench import load_hf, measure_hf_decode
    from lmcourse.text.hub import find_model

    speeds = []
    if kinds:
        model = load_hf(stand, find_model(stand.model))
        for kind in kinds:
            for batch in batches:
                speeds.append(measure_hf_decode(model, stand, kind, batch=batch, prompt_len=prompt_len))
                print(speeds[-1], flush=True)
    return speeds


def run_prefill(args: argparse.Namespace) -> int:
    from lmcourse.bench import measure_prefill, open_stand

    sizes = args.num_tokens or _by_device((1024, 3968), (64, 256, 1024))
    with open_stand(bench_model(args), bench_config(args, longest=max(sizes) + 1, batch=1)) as stand:
        print(f"{stand}\n{_HEADER}", flush=True)
        speeds = []
        for num_tokens in sizes:
            speeds.append(measure_prefill(stand, num_tokens=num_tokens, repeats=args.repeats))
            print(speeds[-1], flush=True)
        keep_result(args, {**stand.head("prefill"), "speeds": [speed.to_json() for speed in speeds]})
    return 0


def run_throughput(args: argparse.Namespace) -> int:
    from lmcourse.bench import measure_serving, mixed_requests, open_stand
    from lmcourse.models import load_spec
    from lmcourse.text.hub import find_model

    model = bench_model(args)
    folder = find_model(model)
    requests = mixed_requests(
        args.num_requests or _by_device(256, 32),
        vocab=load_spec(folder).vocab,
        seed=args.seed,
        prompt_lens=tuple(args.prompt_lens or _by_device((100, 1024), (16, 256))),
        output_lens=tuple(args.output_lens or _by_device((100, 1024), (32, 192))),
    )
    if args.baseline:
        return _compare(args, folder, requests)
    longest = max(len(request.prompt_ids) + request.num_output_tokens for request in requests)
    with open_stand(model, bench_config(args, longest=longest, batch=len(requests))) as stand:
        print(f"{stand}\n{_HEADER}", flush=True)
        speed = measure_serving(stand, requests, repeats=args.repeats)
        print(speed, flush=True)
        counts = {
            "num_prompt_tokens": sum(len(request.prompt_ids) for request in requests),
            "num_output_tokens": sum(request.num_output_tokens for request in requests),
            "num_preemptions": stand.engine.stats().num_preemptions,
        }
        keep_result(args, {**stand.head("throughput"), **counts, "seed": args.seed, "speeds": [speed.to_json()]})
    return 0


def _compare(args: argparse.Namespace, folder: Any, requests: Sequence[Any]) -> int:
    from lmcourse.bench import compare_throughput

    print(f"measuring: both sides run {1 + args.repeats} times", flush=True)
    result = compare_throughput(folder, requests, dtype=args.dtype, repeats=args.repeats)
    print(result)
    keep_result(args, {**result.to_json(), "seed": args.seed})
    return 0


def _by_device(on_cuda: Any, on_cpu: Any) -> Any:
    import torch

    return on_cuda if torch.cuda.is_available() else on_cpu
