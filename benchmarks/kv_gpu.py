"""The kernels of quantised KV caches on one GPU: right first, then which tiles, then how fast a whole step is.

    python benchmarks/kv_gpu.py check sweep prefill write steps      results in $OUT/kv_gpu.json, or ./kv_gpu.json
    FORM=int8 TAG=_int8 … check:0                                    one format, one dtype; several side by side
    WARM=1 python benchmarks/kv_gpu.py sweep:1 sweep:64 prefill      only compiles, into Triton's cache; run it first,
                                                                     several side by side
    SECONDS_LEFT=150 …                                               starts nothing new after 150 s
    TRITON_INTERPRET=1 DEVICE=cpu … check                            a rehearsal without a GPU

Caches rotate over at least 220 MB, so that they come from memory and not from the L2 cache; times are medians of CUDA
graph replays. Bytes are those of the format, scales included; copy bandwidth is measured in the same process.
"""

# ruff: noqa: B023, I001, PLR0913 (what is timed is called at once)
from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from lmcourse.bench import describe_machine, measure_limits
from lmcourse.bench.cold import time_call
from lmcourse.kernels import (
    INT4, INT8, LayerKV, Matrix, Norm, PackedKV, RaggedBatch, Rotation, Stream, attention, decode_attention, norm_qkv,
    prefill_attention,
)  # fmt: skip
from lmcourse.spec import ModelSpec

DEVICE, WARM = os.environ.get("DEVICE", "cuda"), bool(os.environ.get("WARM"))
STARTED, LIMIT = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
FORMS = {"fp16": None, "int8": INT8, "int4": INT4}
FORMS = {name: FORMS[name] for name in os.environ.get("FORM", "fp16,int8,int4").split(",")}
DTYPES = ((torch.float16, 2e-3), (torch.bfloat16, 1.2e-2), (torch.float32, 3e-5))
SPEC = ModelSpec("internlm2", 2048, 24, 16, 8, 128, 8192, 92544, 32768)
HEADS = (16, 8, 128)
DECODES = [(requests, context) for requests in (1, 8, 16, 64, 256) for context in (256, 1024)]
PLANS = ((2, 3), (2, 5), (4, 3), (4, 5), (4, 7), (8, 3))  # warps, stages
PREFILL_PLANS = ((128, 8, 5, 1), (128, 8, 7, 1), (64, 4, 5, 0), (64, 8, 5, 1), (128, 8, 5, 0), (64, 4, 5, 1))
RESULTS: dict = {"errors": {}, "sweep": {}, "prefill": {}, "write": {}, "steps": {}, "failures": {}}
BEST: dict = {}


def say(line):
    sys.stdout.write(f"{time.perf_counter() - STARTED:6.1f} s  {line}\n")
    sys.stdout.flush()


def empty_layer(num_blocks, heads, form, dtype=torch.float16, size=64):
    _, kv_heads, dim = heads
    if form is None:
        return LayerKV(*(torch.empty((num_blocks, kv_heads, size, dim), dtype=dtype, device=DEVICE) for _ in "kv"))
    cells = (torch.empty((num_blocks, kv_heads, size, dim // 2), dtype=form.cell_dtype, device=DEVICE) for _ in "kv")
    shape = (num_blocks, kv_heads, form.num_scales, size)
    scales = (torch.full(shape, math.nan, dtype=torch.float16, device=DEVICE) for _ in "kv")
    return PackedKV(*cells, *scales, form)


def random_layer(num_blocks, heads, form, size=64):
    """Filled with random numbers of the format, quickly."""
    layer = empty_layer(num_blocks, heads, form, size=size)
    bounds = (-32768, 32768) if form is INT8 else (0, 256)
    for tensor in layer[:2]:
        tensor.normal_() if form is None else tensor.random_(*bounds)
    for tensor in layer[2:4] if form else ():
        tensor.uniform_(0.005, 0.02)
    return layer


def make_batch(contexts, new=1, size=64):
    counts = [-(-context // size) for context in contexts]
    free = torch.randperm(sum(counts)).tolist()
    tables = torch.zeros(len(contexts), max(counts), dtype=torch.int32)
    positions, slots = [], []
    for row, (context, count) in enumerate(zip(contexts, counts, strict=True)):
        blocks = [free.pop() for _ in range(count)]
        tables[row, :count] = torch.tensor(blocks, dtype=torch.int32)
        positions += range(context - new, context)
        slots += [blocks[p // size] * size + p % size for p in range(context - new, context)]
    starts = tuple(range(0, new * len(contexts) + 1, new))
    positions, slots = (torch.tensor(x, device=DEVICE) for x in (positions, slots))
    decodes = len(contexts) if new == 1 else 0
    batch = RaggedBatch(positions, slots, tables.to(DEVICE), starts, tuple(contexts), positions + 1, decodes)
    return batch, sum(counts)


def relative(got, want):
    got, want = got.double(), want.double()
    error = ((got - want).norm() / want.norm().clamp(min=1e-300)).item()
    return math.inf if math.isnan(error) else error


def note(name, error, limit):
    RESULTS["errors"][name] = max(RESULTS["errors"].get(name, 0.0), error)
    if not error < limit:
        RESULTS["failures"][name] = f"{error:.2e}, limit {limit:.0e}"
        say(f"WRONG {name}: {error:.2e}, limit {limit:.0e}")


def graph_us(function, repeats=15):
    if WARM or DEVICE == "cpu":
        function()
        return 1.0
    return time_call(function, torch.device(DEVICE), repeats=repeats)[0]


def check(*only):
    """Random inputs, NaN where nothing was written, outputs poisoned; the reference computes in float32."""
    empty_like = torch.empty_like
    small = DEVICE == "cpu"
    batches = (([1], 1), ([1000], 1), ([5, 64, 65, 700], 1), ([300] * 70, 1), ([40, 333, 129], 37), ([700], 700))
    with mock.patch("torch.empty_like", lambda *a, **k: empty_like(*a, **k).fill_(math.nan)), torch.inference_mode():
        for name, form in FORMS.items():
            for dtype, limit in [DTYPES[number] for number in only or range(3)]:
                if small and dtype is torch.bfloat16:
                    continue
                for heads in ((16, 8, 128), (32, 32, 128), (6, 2, 64), (3, 1, 80))[: 1 if small else 3]:
                    for contexts, new in batches[2:3] if small else batches:
                        check_attention(f"attention {name} {dtype}", heads, contexts, new, form, dtype, limit)
                for tokens in (1, 3, 70)[: 2 if small else 3]:
                    check_write(f"write {name} {dtype}", tokens, form, dtype)
    say("worst errors: " + ", ".join(f"{name} {error:.1e}" for name, error in RESULTS["errors"].items()))


def check_attention(name, heads, contexts, new, form, dtype, limit):
    batch, blocks = make_batch(contexts, new)
    layer = empty_layer(blocks, heads, form, dtype)
    for tensor in layer[:2]:
        tensor.fill_(math.nan) if form is None else tensor.random_(0, 255)
    for row, context in enumerate(contexts):
        places = torch.arange(context, device=DEVICE)
        slots = batch.block_tables[row][places // 64].long() * 64 + places % 64
        keys, values = (torch.randn(context, *heads[1:], device=DEVICE).exp().to(dtype) for _ in "kv")
        layer.write(keys - 1.5, values, slots)
    q = torch.randn(batch.query_starts[-1], heads[0], heads[2], device=DEVICE).to(dtype)
    got = attention.ragged_attention(q, layer, batch, heads[2] ** -0.5)
    want = attention.ragged_attention_reference(q, layer, batch, heads[2] ** -0.5)
    note(name, relative(got, want), limit)


def check_write(name, tokens, form, dtype):
    """norm_qkv (rows and staged), rotate_write and write_kv against the torch forms on the CPU."""
    heads, kv_heads, dim, hidden = 6, 2, 64, 96
    stream = Stream(torch.randn(tokens, hidden).to(dtype), torch.randn(1, tokens, hidden).to(dtype))
    norm, qkv = (
        Norm(torch.randn(hidden).to(dtype), 1e-5),
        Matrix((torch.randn((heads + 4) * dim, hidden) * 0.1).to(dtype)),
    )
    turns = torch.rand(tokens, dim // 2) * 100
    rotation, slots = Rotation(turns.cos(), turns.sin()), torch.randperm(640)[:tokens]
    blocks = torch.arange(10)
    groups = (stream, norm, qkv, rotation)
    moved = [[t.to(DEVICE) if isinstance(t, torch.Tensor) else t for t in group] for group in groups]
    pool = empty_layer(10, (heads, kv_heads, dim), form, dtype)
    want = type(pool)(*(t.cpu().clone() if isinstance(t, torch.Tensor) else t for t in pool))
    q, _ = norm_qkv(Stream(*moved[0]), Norm(*moved[1]), Matrix(*moved[2]), Rotation(*moved[3]), pool, slots.to(DEVICE))
    with mock.patch("lmcourse.kernels.dispatch.runs_triton", return_value=False):
        want_q, _ = norm_qkv(stream, norm, qkv, rotation, want, slots)
    limit = {torch.float16: 3e-3, torch.bfloat16: 2e-2, torch.float32: 3e-5}[dtype]
    note(f"q of {name}", relative(q.cpu(), want_q), limit)
    step = {None: limit, INT8: 6e-3, INT4: 6e-2}[form] if dtype is not torch.bfloat16 else 8e-2
    for got, wanted in zip(pool.read(blocks.to(DEVICE)), want.read(blocks), strict=True):
        got, wanted = (x.transpose(1, 2).flatten(0, 1).float() for x in (got.cpu(), wanted))
        note(name, relative(got[slots], wanted[slots]), step)


def layer_bytes(requests, context, form):
    per_head = 2 * 128 if form is None else 128 * form.bits / 8 + 2 * form.num_scales
    return 2 * requests * context * 8 * per_head


def sweep(*only):
    """(warps, stages) of decodes, by format, requests and context; one layer, caches cold."""
    for name, form in FORMS.items():
        for requests, context in DECODES:
            if only and requests not in only:
                continue
            batch, blocks = make_batch([context] * requests)
            num_bytes = layer_bytes(requests, context, form)
            sets = 1 if WARM else min(48, max(2, math.ceil(2.2e8 / num_bytes)))
            layers = [random_layer(blocks, HEADS, form) for _ in range(sets)]
            q = torch.randn(requests, 16, 128, device=DEVICE, dtype=torch.float16)
            calls = 1 if WARM else max(1, 12 // sets)

            def run():
                for layer in layers * calls:
                    attention.ragged_attention(q, layer, batch, 0.088)

            found = {}
            for plan in PLANS:
                if time.perf_counter() - STARTED > LIMIT:
                    return
                with mock.patch.object(decode_attention, "plan_decode", return_value=plan):
                    found[plan] = graph_us(run) / (sets * calls)
            best = min(found, key=found.get)
            BEST[name, requests] = best
            of_copy = num_bytes / found[best] / 1e6 / RESULTS.get("copy_tb_s", 1)
            RESULTS["sweep"][f"{name} B={requests} context={context}"] = {
                str(p): round(us, 2) for p, us in found.items()
            }
            every = " ".join(f"{p[0]}w{p[1]}s {us:.1f}" for p, us in found.items())
            say(f"decode {name} B={requests} context={context}: {found[best]:.2f} µs, {of_copy:.2f} of copy; {every}")


def prefill():
    """(TILE_M, warps, stages, by tensor descriptors) of prefills."""
    for name, form in FORMS.items():
        for tokens in (1024, 4096):
            batch, blocks = make_batch([tokens], tokens)
            layer, found = random_layer(blocks, HEADS, form), {}
            q = torch.randn(tokens, 16, 128, device=DEVICE, dtype=torch.float16)
            for plan in PREFILL_PLANS:
                if time.perf_counter() - STARTED > LIMIT:
                    return
                with mock.patch.object(prefill_attention, "plan_prefill", return_value=plan):
                    us = graph_us(lambda: [attention.ragged_attention(q, layer, batch, 0.088) for _ in range(4)]) / 4
                    found[plan] = 2 * 16 * 128 * tokens**2 / us / 1e6
            RESULTS["prefill"][f"{name} {tokens}"] = {str(p): round(rate, 1) for p, rate in found.items()}
            say(f"prefill {name} {tokens}, TFLOP/s: " + " ".join(f"{p}:{rate:.0f}" for p, rate in found.items()))


def write():
    """norm_qkv with its write, µs, at 1 and 64 tokens."""
    for tokens in (1, 8, 64):
        for name, form in FORMS.items():
            stream = Stream(*(torch.randn(*s, 2048, device=DEVICE).half() for s in ((tokens,), (1, tokens))))
            norm = Norm(torch.ones(2048, device=DEVICE).half(), 1e-5)
            matrices = [Matrix(torch.randn(4096, 2048, device=DEVICE).half()) for _ in range(1 if WARM else 13)]
            rotation = Rotation(*(torch.rand(tokens, 64, device=DEVICE) for _ in "cs"))
            layer, slots = random_layer(tokens, HEADS, form), torch.arange(tokens, device=DEVICE) * 64
            us = graph_us(lambda: [norm_qkv(stream, norm, m, rotation, layer, slots) for m in matrices]) / len(matrices)
            RESULTS["write"][f"{name} M={tokens}"] = round(us, 2)
            say(f"norm_qkv {name} M={tokens}: {us:.2f} µs")


@torch.inference_mode()
def steps():
    """Whole decode steps of the 1.8B shape at context 1,024, with the best plans of the sweep if there was one."""
    from lmcourse.kernels.sampling import argmax
    from lmcourse.models import Decoder

    torch.set_default_dtype(torch.float16)
    with torch.device(DEVICE):
        decoder = Decoder(SPEC)
    torch.set_default_dtype(torch.float32)
    for weight_name, weight in decoder.named_parameters():
        weight.data.fill_(1) if "norm" in weight_name else weight.data.normal_(0, 0.02)
    for requests in (1, 8, 64, 256):
        for name, form in FORMS.items():
            if time.perf_counter() - STARTED > LIMIT:
                return
            batch, blocks = make_batch([1024] * requests)
            kv = [random_layer(blocks, HEADS, form) for _ in range(24)]
            ids = torch.randint(92544, (requests,), device=DEVICE)
            best = BEST.get((name, requests))  # none without a sweep: then the plans are the kernel's own
            plans = {"return_value": best} if best else {"side_effect": decode_attention.plan_decode}
            with mock.patch.object(decode_attention, "plan_decode", **plans):
                us = graph_us(lambda: argmax(decoder.logits(decoder(ids, batch, kv)), out=ids), 9)
            RESULTS["steps"][f"{name} B={requests}"] = round(us, 1)
            ratio = RESULTS["steps"].get(f"fp16 B={requests}", 0) / us
            say(f"step {name} B={requests} context 1024: {us:.0f} µs, {ratio:.2f} x fp16")
            kv.clear()
            torch.cuda.empty_cache()


def measure_copy():
    RESULTS["copy_tb_s"] = measure_limits(torch.device(DEVICE), torch.float16).copy / 1e12
    RESULTS["machine"] = describe_machine()
    say(f"{torch.cuda.get_device_name()}, copy {RESULTS['copy_tb_s']:.2f} TB/s")


def main():
    torch.manual_seed(int(time.time()))
    if DEVICE != "cpu" and not WARM and "TAG" not in os.environ:
        measure_copy()
    for section in sys.argv[1:]:
        name, _, numbers = section.partition(":")
        try:
            globals()[name](*(int(number) for number in numbers.split(",") if number))
        except Exception:
            RESULTS["failures"][section] = traceback.format_exc()
            say(f"FAILED {section}: {traceback.format_exc()[-1500:]}")
        if not WARM:
            Path(os.environ.get("OUT", "."), f"kv_gpu{os.environ.get('TAG', '')}.json").write_text(
                json.dumps(RESULTS, indent=1), encoding="utf-8"
            )
    return 1 if RESULTS["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
