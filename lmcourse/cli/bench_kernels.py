"""`lmcourse bench kernels`: each operation of a model's shape by itself, beside the device's limits.

Lesson: 3 (what a step is made of)
"""

from __future__ import annotations

import argparse
from typing import Any

from lmcourse.cli.bench_flags import add_kind, bench_model, keep_result, whole_number
from lmcourse.cli.flags import engine_config

__all__ = ["add_kinds", "run"]

_EXAMPLES = """examples:
  lmcourse bench kernels dummy:internlm2-1_8b                 (on CUDA)
  lmcourse bench kernels tiny-chat --num-tokens 1 8 --out kernels.json
"""


def add_kinds(kinds: Any) -> None:
    """Adds kernels."""
    parser = add_kind(
        kinds, "kernels", help="each operation by itself, inputs from memory, beside the limit",
        description="Time each operation of the model's shape with random inputs that no cache holds; on CUDA inside a "
        "graph. The last column is the share of what copy bandwidth (or, for prefill attention, the rate of a large "
        "matrix product) allows.",
        examples=_EXAMPLES,
    )  # fmt: skip
    parser.add_argument("--num-tokens", type=whole_number, nargs="+", metavar="N",
                        help="of the matrix operations (default: 1 2 8 16 64 on CUDA, 1 8 on a CPU)")  # fmt: skip
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Only the model's config is read."""
    import torch

    from lmcourse.bench import current_commit, describe_machine, measure_limits
    from lmcourse.bench.kernel_inputs import Inputs
    from lmcourse.bench.kernels import KernelSizes, kernel_cases, measure_kernel
    from lmcourse.engine.settings import choose_device, choose_dtype
    from lmcourse.models import load_spec
    from lmcourse.text.hub import find_model

    model, device, config = bench_model(args), choose_device(), engine_config(args)
    spec, machine = load_spec(find_model(model)), describe_machine()
    dtype = choose_dtype(config, spec.dtype, device)
    limits = measure_limits(device, dtype)
    print(f"{model}'s shape, {limits.dtype}, on {machine['gpu'] or machine['cpu']}\n{limits}", flush=True)
    on_cpu = KernelSizes((1, 8), ((1, 256), (8, 256)), (256,), 256)
    sizes = KernelSizes() if device.type == "cuda" else on_cpu
    sizes = KernelSizes(args.num_tokens or sizes.num_tokens, sizes.decodes, sizes.prefills, sizes.num_rows)
    speeds = []
    with torch.inference_mode():
        for case in kernel_cases(spec, Inputs(device, dtype, config.cache_block_seq_len), sizes):
            speeds.append(measure_kernel(case, device, limits))
            print(speeds[-1], flush=True)
    head = {"benchmark": "kernels", "model": model, "dtype": limits.dtype, "commit": current_commit()}
    rates = {"copy_tb_s": limits.copy / 1e12, "matmul_tflop_s": limits.matmul / 1e12, "clocks": limits.clocks}
    keep_result(args, {**head, **rates, "machine": machine, "kernels": [speed.to_json() for speed in speeds]})
    return 0
