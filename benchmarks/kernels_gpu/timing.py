"""How fast each operation and whole steps are."""

from __future__ import annotations

import statistics
import time
from unittest import mock

import torch
from tools import (
    KERNELS,
    RESULTS,
    SPECS,
    graph_us,
    guarded,
    make_batch,
    make_kv,
    random_tensor,
    relative,
    report,
    rotating_us,
    say,
)

from lmcourse.kernels import LayerKV, Matrix, Norm, Rotation, Stream
from lmcourse.models import Decoder

MATRICES = ("qkv", "o", "gate_up", "down", "head")
DECODES = ((1, 256), (1, 1024), (8, 256), (8, 1024), (64, 256), (64, 1024), (256, 256))
STEPS = {
    "1.8B": (
        *((requests, 256) for requests in (1, 2, 4, 8, 16, 64, 256)),
        *((requests, 1024) for requests in (1, 8, 64)),
    ),
    "7B": ((1, 256), (64, 256)),
}  # fmt: skip


def matrix_case(kind, spec, tokens):
    """(make a weight, run with it, bytes) of one of the operations with a matrix."""
    h, heads = spec.hidden, spec.num_heads + 2 * spec.num_kv_heads
    rows, width = {
        "qkv": (heads * spec.head_dim, h), "o": (h, spec.num_heads * spec.head_dim),
        "gate_up": (2 * spec.intermediate, h), "down": (h, spec.intermediate), "head": (spec.vocab, h),
    }[kind]  # fmt: skip
    stream, norm = Stream(random_tensor(tokens, h), random_tensor(1, tokens, h)), Norm(random_tensor(h), 1e-5)
    batch, blocks = make_batch([300] * tokens)
    (kv,) = make_kv(blocks, spec)
    rotation = Rotation(*(random_tensor(tokens, spec.head_dim // 2, dtype=torch.float32) for _ in "cs"))
    x = random_tensor(tokens, width)

    def run(weight):
        if kind == "qkv":
            return KERNELS["norm_qkv"].norm_qkv(stream, norm, Matrix(weight), rotation, kv, batch.slots)
        if kind == "gate_up":
            return KERNELS["norm_gate_up"].norm_gate_up(stream, norm, Matrix(weight))
        return KERNELS["project"].project(x, Matrix(weight), torch.float32 if kind == "head" else None)

    return lambda: (random_tensor(rows, width),), run, 2 * rows * width


def time_kernels():
    for tokens in (1, 2, 8, 16, 64):
        for kind in MATRICES:
            make, run, num_bytes = matrix_case(kind, SPECS["1.8B"], tokens)
            report(f"{kind} M={tokens}", *rotating_us(make, run, num_bytes), num_bytes)
    for kind in MATRICES:
        make, run, num_bytes = matrix_case(kind, SPECS["7B"], 1)
        report(f"7B {kind} M=1", *rotating_us(make, run, num_bytes), num_bytes)
    for requests, context in DECODES:
        report(f"decode B={requests} context={context}", *time_decode(requests, context))
    time_streaming()
    for tokens in (1024, 4096):
        us, spread, flops = time_prefill_attention(tokens)
        RESULTS["kernels"][f"prefill attention {tokens}"] = {"us": us, "tflop_s": flops / us / 1e6}
        say(f"prefill attention {tokens}: {us:.1f} µs ± {spread:.1f}, {flops / us / 1e6:.0f} TFLOP/s")


def time_streaming():
    tokens, width, inner = 4096, 2048, 8192
    norm = Norm(random_tensor(width), 1e-5)

    def make_stream():
        return (Stream(random_tensor(tokens, width), random_tensor(1, tokens, width)),)

    num_bytes = tokens * width * 8
    times = rotating_us(make_stream, lambda stream: KERNELS["add_norm"].add_norm(stream, norm), num_bytes)
    report("add_norm 4096", *times, num_bytes)
    num_bytes = tokens * inner * 6
    times = rotating_us(lambda: (random_tensor(tokens, 2 * inner),), KERNELS["swiglu"].swiglu, num_bytes)
    report("swiglu 4096", *times, num_bytes)
    logits = torch.randn(256, 92544, device="cuda")
    report("argmax 256", *graph_us(lambda: KERNELS["sampling"].argmax(logits)), logits.nbytes)


def time_decode(requests, context):
    spec = SPECS["1.8B"]
    batch, blocks = make_batch([context] * requests)
    num_bytes = 2 * 2 * requests * context * spec.num_kv_heads * spec.head_dim
    q = random_tensor(requests, spec.num_heads, spec.head_dim)

    def run(layer):
        return KERNELS["attention"].ragged_attention(q, layer, batch, 0.09)

    return *rotating_us(lambda: make_kv(blocks, spec), run, num_bytes), num_bytes


def time_prefill_attention(tokens):
    spec = SPECS["1.8B"]
    batch, blocks = make_batch([tokens], new=tokens)
    (layer,) = make_kv(blocks, spec)
    q = random_tensor(tokens, spec.num_heads, spec.head_dim)
    us, spread = graph_us(lambda: [KERNELS["attention"].ragged_attention(q, layer, batch, 0.09) for _ in range(8)])
    return us / 8, spread / 8, 2 * spec.num_heads * spec.head_dim * tokens * tokens


def make_decoder(spec, dtype=torch.float16):
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        decoder = Decoder(spec)
    torch.set_default_dtype(torch.float32)
    for name, weight in decoder.named_parameters():
        weight.data.fill_(1) if "norm" in name else weight.data.normal_(0, 0.02)
    return decoder


def make_step(decoder, contexts, new=1):
    """(batch, kv, token ids) of one step."""
    spec = decoder.spec
    batch, blocks = make_batch(contexts, new=new)
    ids = torch.randint(spec.vocab, (new * len(contexts),), device="cuda")
    return batch, make_kv(blocks, spec, spec.num_layers), ids


@torch.inference_mode()
def time_step(decoder, name, requests, context):
    """One decode step, the next token fed back on the device; positions stay where they are."""
    batch, kv, ids = make_step(decoder, [context] * requests)
    us, spread = graph_us(lambda: ids.copy_(KERNELS["sampling"].argmax(decoder.logits(decoder(ids, batch, kv)))))
    key, rate = f"{name} B={requests} context={context}", requests / us * 1e6
    RESULTS.setdefault("steps", {})[key] = {"us": us, "spread_us": spread, "tok_s": rate}
    say(f"{name} step B={requests} context={context}: {us:.0f} µs ± {spread:.0f}, {rate:.0f} tok/s")


@torch.inference_mode()
def check_step(decoder):
    """The fused step's logits against the reference forms in float32, the same weights and cache."""
    batch, kv, ids = make_step(decoder, [300, 64])
    got = decoder.logits(decoder(ids, batch, kv))
    with mock.patch.object(KERNELS["dispatch"], "runs_triton", return_value=False):
        half = decoder.logits(decoder(ids, batch, kv))
        precise = make_decoder(decoder.spec, torch.float32)
        precise.load_state_dict(decoder.state_dict())
        want = precise.logits(precise(ids, batch, tuple(LayerKV(*(t.float() for t in layer)) for layer in kv)))
    same = torch.equal(got.argmax(1), want.argmax(1))
    errors = f"fused {relative(got, want):.1e}, plain torch {relative(half, want):.1e}"
    say(f"logits of a step against float32: {errors}, same argmax {same}")


@torch.inference_mode()
def time_prefill(decoder, name, tokens):
    batch, kv, ids = make_step(decoder, [tokens], new=tokens)

    def run():
        return decoder.logits(decoder(ids, batch, kv)[-1:])

    times = []
    for _ in range(8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    eager, graph = statistics.median(times[3:]), graph_us(run, 7)[0] / 1e3
    RESULTS.setdefault("prefill_ms", {})[f"{name} {tokens}"] = {"eager": eager, "graph": graph}
    say(f"{name} prefill {tokens}: {eager:.2f} ms, {graph:.2f} ms in a graph")


def time_steps(name):
    decoder = make_decoder(SPECS[name])
    guarded(check_step, decoder)
    for requests, context in STEPS[name]:
        guarded(time_step, decoder, name, requests, context)
        torch.cuda.empty_cache()
    for tokens in (1024, 3968):
        guarded(time_prefill, decoder, name, tokens)
