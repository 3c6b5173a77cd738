"""Kernels and whole steps on one GPU: right first, then how fast, beside what the bytes allow.

    python benchmarks/kernels_gpu.py                       everything, results in ./kernels_gpu.json
    OUT=/somewhere SECONDS_LEFT=180 python benchmarks/kernels_gpu.py [check16 checkb check32 kernels steps 7b sweep_attention sweep_rows sweep_8 sweep_64]

Weights rotate over at least 220 MB, so that they come from memory and not from the L2 cache; times are medians of CUDA
graph replays with the spread of the middle half; copy bandwidth is measured in the same process.
"""

from __future__ import annotations

import functools
import json
import math
import os
import statistics
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from unittest import mock

import torch
from torch.nn.functional import linear

sys.path.insert(0, str(Path(__file__).parents[1]))
from lmcourse.kernels import LayerKV, Matrix, Norm, RaggedBatch, Rotation, Stream
from lmcourse.models import Decoder
from lmcourse.spec import ModelSpec

MODULES = ("add_norm", "attention", "decode_attention", "dispatch", "norm_gate_up", "norm_qkv", "prefill_attention")
MODULES += ("project", "rms_norm", "rotate_write", "sampling", "swiglu")
K = {name: import_module(f"lmcourse.kernels.{name}") for name in MODULES}
SPECS = {
    "1.8B": ModelSpec("internlm2", 2048, 24, 16, 8, 128, 8192, 92544, 32768),
    "7B": ModelSpec("llama", 4096, 32, 32, 32, 128, 11008, 32000, 4096),
}
STARTED, LIMIT = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
WARM = bool(os.environ.get("WARM"))  # compile everything and time nothing
RESULTS: dict = {}
LINES: list[str] = []


def say(line: str) -> None:
    LINES.append(line)
    print(f"{time.perf_counter() - STARTED:6.1f} s  {line}", flush=True)


def T(*shape, dtype=torch.float16, scale=1.0):
    return (torch.randn(shape, device="cuda") * scale).to(dtype)


def graph_us(function, repeats=15):
    """(median, spread of the middle half), µs of one replay."""
    if WARM:
        function()
        return 1.0, 0.0
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    times = []
    for index in range(repeats + 3):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        if index >= 3:
            times.append(start.elapsed_time(stop) * 1000)
    low, _, high = statistics.quantiles(times, n=4)
    return statistics.median(times), high - low


def rotating_us(make, run, num_bytes):
    """µs of one call, weights cold; `make` builds one set of inputs."""
    count = 1 if WARM else min(64, max(2, math.ceil(220e6 / max(1, num_bytes))))
    sets = [make() for _ in range(count)]
    rounds = 1 if WARM else max(1, 12 // len(sets))
    total, spread = graph_us(lambda: [run(*inputs) for _ in range(rounds) for inputs in sets])
    calls = rounds * len(sets)
    return total / calls, spread / calls


def make_batch(contexts, tokens_per_block=64, new=1):
    """Requests with so many tokens cached once this step's `new` are written, in shuffled blocks."""
    counts = [-(-context // tokens_per_block) for context in contexts]
    free = torch.randperm(sum(counts)).tolist()
    tables = torch.zeros(len(contexts), max(counts), dtype=torch.int32)
    positions, slots = [], []
    for row, (context, count) in enumerate(zip(contexts, counts, strict=True)):
        blocks = [free.pop() for _ in range(count)]
        tables[row, :count] = torch.tensor(blocks, dtype=torch.int32)
        places = range(context - new, context)
        positions += places
        slots += [blocks[p // tokens_per_block] * tokens_per_block + p % tokens_per_block for p in places]
    starts = tuple(range(0, new * len(contexts) + 1, new))
    cuda = functools.partial(torch.tensor, device="cuda")
    lens = [c for c in contexts for _ in range(new)]
    return RaggedBatch(
        cuda(positions), cuda(slots), tables.cuda(), starts, tuple(contexts), cuda(lens),
        len(contexts) if new == 1 else 0,
    ), sum(counts)  # fmt: skip


def make_kv(num_blocks, spec, layers=1, dtype=torch.float16):
    pool = torch.empty(layers, 2, num_blocks, spec.num_kv_heads, 64, spec.head_dim, device="cuda", dtype=dtype)
    for layer in pool:
        layer.normal_()
    return tuple(LayerKV(layer[0], layer[1]) for layer in pool)


def relative(got, want):
    got, want = got.double(), want.double()
    return ((got - want).norm() / want.norm()).item()


# --- right ---------------------------------------------------------------------------------------------------------


SHAPES = {"1.8B": (2048, 16, 8, 128, 8192), "7B": (4096, 32, 32, 128, 11008), "odd": (72, 6, 2, 12, 50)}
CASES = (
    (torch.float16, 1.5e-3, {"1.8B": (1, 3, 8, 17, 64, 200), "7B": (1, 33), "odd": (3, 17)}),
    (torch.bfloat16, 1.2e-2, {"1.8B": (2, 8, 64), "odd": (1, 40)}),
    (torch.float32, 2e-5, {"1.8B": (1, 8), "odd": (1, 4, 70)}),
)


def check(only=None):
    worst = {}

    def note(name, got, want, limit):
        error = relative(got, want)
        worst[name] = max(worst.get(name, 0.0), error) if error == error else math.inf
        if not error < limit:
            say(f"WRONG {name}: relative error {error:.2e} over {limit:.0e}")

    plain = mock.patch.object(K["dispatch"], "runs_triton", lambda device: False)
    for dtype, limit, shapes in CASES:
        if only and only not in str(dtype):
            continue
        for shape, token_counts in shapes.items():
            hidden, heads, kv_heads, dim, inter = SHAPES[shape]
            for M in token_counts:
                parts = T(1, M, hidden, dtype=dtype) if M % 2 else T(3, M, hidden, dtype=torch.float32)
                stream, norm = Stream(T(M, hidden, dtype=dtype), parts), Norm(T(hidden, dtype=dtype), 1e-5)
                w = Matrix(T((heads + 2 * kv_heads) * dim, hidden, dtype=dtype, scale=hidden**-0.5), None)
                up = Matrix(T(2 * inter, hidden, dtype=dtype, scale=hidden**-0.5), T(2 * inter, dtype=dtype))
                down = Matrix(T(hidden, inter, dtype=dtype, scale=inter**-0.5), T(hidden, dtype=dtype))
                angles = torch.rand(M, dim // 2, device="cuda") * 100
                rotation, slots = Rotation(angles.cos(), angles.sin()), torch.randperm(640, device="cuda")[:M]
                pools = [LayerKV(*(torch.full((10, kv_heads, 64, dim), math.nan, device="cuda", dtype=d) for _ in "kv")) for d in (dtype, torch.float64)]
                double = lambda t: type(t)(*(double(x) if isinstance(x, tuple) else x.double() if isinstance(x, torch.Tensor) else x for x in t))
                q, residual = K["norm_qkv"].norm_qkv(stream, norm, w, rotation, pools[0], slots)
                mid, _ = K["norm_gate_up"].norm_gate_up(stream, norm, up)
                out = K["project"].project(mid, down).double().sum(0)
                logits = K["project"].project(residual, w, torch.float32).sum(0)
                with plain:
                    q2, residual2 = float64_norm_qkv(double(stream), double(norm), double(w), double(rotation), pools[1], slots)
                    mid2 = float64_gate_up(double(stream), double(norm), double(up))
                    out2 = linear(mid.double(), *double(down))
                    logits2 = linear(residual.double(), w.weight.double())
                name = str(dtype)[6:]
                note(f"norm_qkv {name}", q, q2, 2 * limit)
                note(f"residual {name}", residual, residual2, limit)
                for a, b in zip(*pools, strict=True):
                    if not torch.equal(a.isnan(), b.isnan()):
                        say("WRONG slots written")
                    note(f"kv {name}", a.nan_to_num(), b.nan_to_num(), 2 * limit)
                note(f"gate_up {name}", mid, mid2, 3 * limit)
                note(f"project {name}", out, out2, limit)
                note(f"logits {name}", logits, logits2, limit)
        for heads, kv_heads, dim in ((16, 8, 128), (32, 32, 128), (6, 2, 64)):
            for contexts, new in (([1], 1), ([1000], 1), ([5, 64, 65, 700], 1), ([300] * 70, 1), ([40, 333, 129], 37), ([700], 700)):
                spec = ModelSpec("llama", 1, 1, heads, kv_heads, dim, 1, 1, 1)
                batch, blocks = make_batch(contexts, new=new)
                (layer,) = make_kv(blocks, spec, dtype=dtype)
                q = T(batch.query_starts[-1], heads, dim, dtype=dtype)
                got = K["attention"].ragged_attention(q, layer, batch, dim**-0.5)
                want = K["attention"].ragged_attention_reference(q, layer, batch, dim**-0.5)
                note(f"attention {str(dtype)[6:]}", got, want, limit)
        torch.cuda.empty_cache()
    x = torch.randn(70, 92544, device="cuda")
    if not torch.equal(K["sampling"].argmax(x), x.argmax(1)):
        say("WRONG argmax")
    RESULTS.setdefault("errors", {}).update(worst)
    say("worst relative errors: " + ", ".join(f"{name} {error:.1e}" for name, error in worst.items()))


def float64_norm_qkv(stream, norm, matrix, rotation, kv, slots):
    total = stream.residual + stream.parts.sum(0)
    normed = total / (total.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight
    return K["rotate_write"].rotate_write_reference64(linear(normed, matrix.weight), rotation, kv, slots), total


def float64_gate_up(stream, norm, matrix):
    total = stream.residual + stream.parts.sum(0)
    normed = total / (total.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight
    gate, up = linear(normed, *matrix).chunk(2, dim=1)
    return gate / (1 + (-gate).exp()) * up


def rotate_write64(qkv, rotation, kv, slots):
    """Without the float32 of the reference."""
    _, num_kv_heads, block, dim = kv.keys.shape
    heads = qkv.view(len(slots), -1, dim)
    q, k, v = heads.split((heads.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads), dim=1)
    turned = []
    for x in (q, k):
        a, b = x.chunk(2, dim=-1)
        cos, sin = rotation.cos[:, None], rotation.sin[:, None]
        turned.append(torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1))
    kv.keys[slots // block, :, slots % block], kv.values[slots // block, :, slots % block] = turned[1], v
    return turned[0]


K["rotate_write"].rotate_write_reference64 = rotate_write64


# --- fast ----------------------------------------------------------------------------------------------------------


def bandwidth():
    source, target = torch.empty(2**31, dtype=torch.uint8, device="cuda"), torch.empty(2**31, dtype=torch.uint8, device="cuda")
    us, _ = graph_us(lambda: target.copy_(source))
    RESULTS["copy_tb_s"] = 2**32 / us / 1e6
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    say(f"{name} {capability}, torch {torch.__version__}, copy {RESULTS['copy_tb_s']:.2f} TB/s")


def report(name, us, spread, num_bytes):
    fraction = num_bytes / us / 1e6 / RESULTS["copy_tb_s"]
    RESULTS.setdefault("kernels", {})[name] = {"us": us, "spread_us": spread, "bytes": num_bytes, "of_copy": fraction}
    say(f"{name:34} {us:8.2f} µs ± {spread:.2f}  {num_bytes / us / 1e6:5.2f} TB/s  {fraction:5.2f} of copy")


def matrix_case(kind, spec, M):
    """(make, run, bytes) of one of the five operations with a matrix."""
    h, d = spec.hidden, spec.head_dim
    if kind == "qkv":
        rows = (spec.num_heads + 2 * spec.num_kv_heads) * d
        batch, blocks = make_batch([300] * M)
        (kv,) = make_kv(blocks, spec)
        rotation, norm = Rotation(*(T(M, d // 2, dtype=torch.float32) for _ in "cs")), Norm(T(h), 1e-5)
        stream = Stream(T(M, h), T(1, M, h))
        return lambda: (Matrix(T(rows, h)),), lambda w: K["norm_qkv"].norm_qkv(stream, norm, w, rotation, kv, batch.slots), 2 * rows * h
    if kind == "gate_up":
        stream, norm = Stream(T(M, h), T(1, M, h)), Norm(T(h), 1e-5)
        rows = 2 * spec.intermediate
        return lambda: (Matrix(T(rows, h)),), lambda w: K["norm_gate_up"].norm_gate_up(stream, norm, w), 2 * rows * h
    rows, width = {"o": (h, spec.num_heads * d), "down": (h, spec.intermediate), "head": (spec.vocab, h)}[kind]
    x, dtype = T(M, width), torch.float32 if kind == "head" else None
    return lambda: (Matrix(T(rows, width)),), lambda w: K["project"].project(x, w, dtype), 2 * rows * width


def kernels():
    for M in (1, 4, 8, 16, 64):
        for kind in ("qkv", "o", "gate_up", "down", "head"):
            make, run, num_bytes = matrix_case(kind, SPECS["1.8B"], M)
            report(f"{kind} M={M}", *rotating_us(make, run, num_bytes), num_bytes)
    for kind in ("qkv", "o", "gate_up", "down", "head"):
        make, run, num_bytes = matrix_case(kind, SPECS["7B"], 1)
        report(f"7B {kind} M=1", *rotating_us(make, run, num_bytes), num_bytes)
    for requests, context in ((1, 256), (1, 1024), (8, 256), (8, 1024), (64, 256), (64, 1024), (256, 256)):
        report(f"decode B={requests} context={context}", *time_decode(requests, context))
    h, I = 2048, 8192
    norm = Norm(T(h), 1e-5)
    report("add_norm 4096", *rotating_us(lambda: (Stream(T(4096, h), T(1, 4096, h)),), lambda s: K["add_norm"].add_norm(s, norm), 4096 * h * 8), 4096 * h * 8)
    report("swiglu 4096", *rotating_us(lambda: (T(4096, 2 * I),), K["swiglu"].swiglu, 4096 * I * 6), 4096 * I * 6)
    for tokens in (1024, 4096):
        us, spread, flops = time_prefill_attention(tokens)
        RESULTS["kernels"][f"prefill attention {tokens}"] = {"us": us, "tflop_s": flops / us / 1e6}
        say(f"prefill attention {tokens}: {us:.1f} µs ± {spread:.1f}, {flops / us / 1e6:.0f} TFLOP/s")
    logits = torch.randn(256, 92544, device="cuda")
    report("argmax 256", *graph_us(lambda: [K["sampling"].argmax(logits) for _ in range(4)]), 0.001)


def time_decode(requests, context):
    spec = SPECS["1.8B"]
    batch, blocks = make_batch([context] * requests)
    num_bytes = 2 * 2 * requests * context * spec.num_kv_heads * spec.head_dim
    q = T(requests, spec.num_heads, spec.head_dim)
    us, spread = rotating_us(lambda: make_kv(blocks, spec), lambda layer: K["attention"].ragged_attention(q, layer, batch, 0.09), num_bytes)
    return us, spread, num_bytes


def time_prefill_attention(tokens):
    spec = SPECS["1.8B"]
    batch, blocks = make_batch([tokens], new=tokens)
    (layer,) = make_kv(blocks, spec)
    q = T(tokens, spec.num_heads, spec.head_dim)
    batch.device_starts  # noqa: B018 (a copy that a graph cannot hold)
    us, spread = graph_us(lambda: [K["attention"].ragged_attention(q, layer, batch, 0.09) for _ in range(8)])
    return us / 8, spread / 8, 2 * spec.num_heads * spec.head_dim * tokens * tokens


# --- whole steps ---------------------------------------------------------------------------------------------------


def make_decoder(spec, dtype=torch.float16):
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        decoder = Decoder(spec)
    torch.set_default_dtype(torch.float32)
    for name, weight in decoder.named_parameters():
        weight.data.fill_(1) if "norm" in name else weight.data.normal_(0, 0.02)
    return decoder


@torch.inference_mode()
def time_step(decoder, requests, context):
    spec = decoder.spec
    batch, blocks = make_batch([context] * requests)
    kv = make_kv(blocks, spec, spec.num_layers)
    ids = torch.randint(spec.vocab, (requests,), device="cuda")

    def step():
        ids.copy_(K["sampling"].argmax(decoder.logits(decoder(ids, batch, kv))))

    return graph_us(step)


@torch.inference_mode()
def check_step(decoder):
    """The fused step's logits against the reference forms in float32, the same weights and cache."""
    spec = decoder.spec
    batch, blocks = make_batch([300, 64, 1])
    kv = make_kv(blocks, spec, spec.num_layers)
    ids = torch.randint(spec.vocab, (3,), device="cuda")
    got = decoder.logits(decoder(ids, batch, kv))
    with mock.patch.object(K["dispatch"], "runs_triton", lambda device: False):
        half = decoder.logits(decoder(ids, batch, kv))
        precise = make_decoder(spec, torch.float32)
        precise.load_state_dict(decoder.state_dict())
        want = precise.logits(precise(ids, batch, tuple(LayerKV(*(t.float() for t in layer)) for layer in kv)))
    say(f"step logits against float32: fused {relative(got, want):.1e}, plain torch fp16 {relative(half, want):.1e}, same argmax {torch.equal(got.argmax(1), want.argmax(1))}")


@torch.inference_mode()
def time_prefill(decoder, tokens):
    spec = decoder.spec
    batch, blocks = make_batch([tokens], new=tokens)
    kv = make_kv(blocks, spec, spec.num_layers)
    ids = torch.randint(spec.vocab, (tokens,), device="cuda")
    batch.device_starts  # noqa: B018
    run = lambda: decoder.logits(decoder(ids, batch, kv)[-1:])
    times = []
    for _ in range(8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[3:]), graph_us(run, 7)[0] / 1e3


def steps(name="1.8B", cases=((1, 256), (1, 1024), (2, 256), (4, 256), (8, 256), (8, 1024), (16, 256), (64, 256), (64, 1024), (256, 256))):
    decoder = make_decoder(SPECS[name])
    guarded(lambda: check_step(decoder), f"check of a {name} step")
    for requests, context in cases:
        guarded(lambda: report_step(decoder, name, requests, context), f"{name} B={requests} context={context}")
        torch.cuda.empty_cache()
    for tokens in (1024, 3968) if name == "1.8B" else ():
        eager, graph = time_prefill(decoder, tokens)
        RESULTS.setdefault("prefill_ms", {})[f"{name} {tokens}"] = {"eager": eager, "graph": graph}
        say(f"{name} prefill {tokens}: {eager:.2f} ms, {graph:.2f} ms in a graph")


def report_step(decoder, name, requests, context):
    us, spread = time_step(decoder, requests, context)
    RESULTS.setdefault("steps", {})[f"{name} B={requests} context={context}"] = {"us": us, "spread_us": spread, "tok_s": requests / us * 1e6}
    say(f"{name} step B={requests} context={context}: {us:.0f} µs ± {spread:.0f}, {requests / us * 1e6:.0f} tok/s")


# --- what else could be chosen -------------------------------------------------------------------------------------


def sweep_rows():
    spec = SPECS["1.8B"]
    rows = [(r, w) for r in (2, 4, 8, 16) for w in (2, 4, 8, 16)]
    for kind in ("gate_up", "down", "qkv", "o"):
        width = {"down": 8192}.get(kind, 2048)
        module, plan = {"qkv": ("norm_qkv", "plan_rows"), "gate_up": ("norm_gate_up", "plan_gate_up_rows")}.get(kind, ("project", "plan_rows"))
        case = matrix_case(kind, spec, 1)
        fits = [(r, w) for r, w in rows if 16 <= r * (2 if kind == "gate_up" else 1) * width // (32 * w) <= 256]
        guarded(lambda: pick(f"{kind} M=1 (rows, warps)", module, plan, fits, case), f"sweep {kind}")


def sweep_tiles(M):
    spec, TilePlan = SPECS["1.8B"], K["project"].TilePlan
    for kind in ("down", "o", "gate_up", "head", "qkv"):
        width, num_rows = {"down": (8192, 2048), "o": (2048, 2048), "qkv": (2048, 4096)}.get(kind, (2048, 0))
        shares = [width // s for s in ((4, 8) if num_rows == 2048 else (2, 4) if num_rows == 4096 else (1,))]
        shapes = [(n, k, w, s) for n, k, w, s in ((64, 128, 4, 4), (64, 128, 4, 3), (64, 256, 4, 3), (128, 64, 4, 4), (32, 128, 4, 5), (32, 256, 4, 3), (64, 64, 4, 6), (128, 128, 8, 3))]
        plans = [TilePlan(n, max(8, M), k, share, w, s) for (n, k, w, s) in shapes for share in shares if share % k == 0]
        if kind == "gate_up":
            plans = [p for p in plans if p.tile_n < 128 and (2 * p.tile_n + M) * p.tile_k * 2 * p.stages < 220_000]
        plans = [p for p in plans if (p.tile_n + M) * p.tile_k * 2 * p.stages < 220_000]
        module, plan = ("norm_gate_up", "plan_gate_up") if kind == "gate_up" else ("project", "plan_tiles")
        case = matrix_case(kind, spec, M)
        guarded(lambda: pick(f"{kind} M={M}", module, plan, plans, case), f"sweep {kind}")


def sweep_attention():
    for requests, context in ((1, 1024), (8, 1024), (64, 1024)):
        found = {}
        for plan in ((2, 2), (2, 3), (2, 4), (2, 5), (4, 2), (4, 3), (4, 4), (4, 5)):
            with mock.patch.object(K["decode_attention"], "plan_decode", lambda splits, plan=plan: plan):
                found[plan] = round(time_decode(requests, context)[0], 2)
        note_sweep(f"decode B={requests} (warps, stages)", found)
    found = {}
    for plan in ((128, 8, 2), (128, 8, 3), (128, 8, 4), (128, 8, 5), (64, 4, 3), (64, 4, 4), (128, 4, 3)):
        with mock.patch.object(K["prefill_attention"], "plan_prefill", lambda q, longest, plan=plan: plan):
            us, _, flops = time_prefill_attention(4096)
        found[plan] = -round(flops / us / 1e6)
    note_sweep("prefill 4096 (TILE_M, warps, stages), -TFLOP/s", found)


def pick(name, module, plan_name, plans, case):
    make, run, num_bytes = case
    found = {}
    for plan in plans:
        if time.perf_counter() - STARTED > LIMIT:
            break
        try:
            with mock.patch.object(K[module], plan_name, lambda *args, plan=plan, **keywords: plan):
                found[tuple(plan)] = round(rotating_us(make, run, num_bytes)[0], 2)
        except Exception as error:
            found[tuple(plan)] = f"{type(error).__name__}"
    note_sweep(name, found)


def note_sweep(name, found):
    RESULTS.setdefault("sweeps", {})[name] = {str(plan): value for plan, value in found.items()}
    best = sorted((item for item in found.items() if not isinstance(item[1], str)), key=lambda item: item[1])
    say(f"sweep {name}: " + ", ".join(f"{plan} {value}" for plan, value in best[:5]))


def guarded(function, what):
    if time.perf_counter() - STARTED > LIMIT:
        return
    try:
        function()
    except Exception:
        say(f"FAILED {what}: " + traceback.format_exc().strip().splitlines()[-1][:300])
        RESULTS.setdefault("failures", {})[what] = traceback.format_exc()
        print(traceback.format_exc()[-2500:], flush=True)


def main():
    sections = {
        "check16": lambda: check("float16"), "checkb": lambda: check("bfloat16"), "check32": lambda: check("float32"),
        "steps": steps, "kernels": kernels, "sweep_attention": sweep_attention,
        "7b": lambda: steps("7B", ((1, 256), (64, 256))), "sweep_rows": sweep_rows,
        "sweep_8": lambda: sweep_tiles(8), "sweep_64": lambda: sweep_tiles(64),
    }  # fmt: skip
    chosen = sys.argv[1:] or list(sections)
    if WARM:
        RESULTS["copy_tb_s"] = 1.0
    else:
        guarded(bandwidth, "bandwidth")
    for name in chosen:
        guarded(sections[name], name)
        torch.cuda.empty_cache()
        RESULTS["lines"] = LINES
        if WARM:
            continue
        Path(os.environ.get("OUT", "."), "kernels_gpu.json").write_text(json.dumps(RESULTS, indent=1, ensure_ascii=False))
    print("\n".join(["", *LINES]))


if __name__ == "__main__":
    torch.manual_seed(int(time.time()))
    main()
