"""4-bit weights: right at every shape, which plans are quick, and whole steps beside plain ones."""

from __future__ import annotations

import math
import os
import time
from unittest import mock

import torch
from checks import note, rotate_write
from timing import time_prefill, time_step
from tools import INPUTS, LIMIT_SECONDS, RESULTS, SPECS, STARTED, cold_us, guarded, say

from lmcourse.bench.kernels import KernelCase
from lmcourse.kernels import LayerKV, Norm, PackedMatrix, Rotation, Stream, norm_gate_up, norm_qkv, project
from lmcourse.kernels.norm_gate_up import norm_gate_up_reference
from lmcourse.kernels.norm_qkv import norm_qkv_reference
from lmcourse.kernels.packed import join_groups, unpack_matrix
from lmcourse.kernels.w4a16 import RowPlan, w4a16_rows
from lmcourse.kernels.w4a16_norm_gate_up import w4a16_norm_gate_up_rows, w4a16_norm_gate_up_tiles
from lmcourse.kernels.w4a16_norm_qkv import w4a16_norm_qkv_rows
from lmcourse.kernels.w4a16_tiles import PackedTilePlan, w4a16_tiles, w4a16_unpacked
from lmcourse.models.decoder import meta_decoder
from lmcourse.quant import AwqFormat

DEVICE = os.environ.get("DEVICE", "cuda")
COUNTS = (1, 2, 3, 8, 16, 17, 64, 100, 129, 256, 300, 512)
ODD = (96, 6, 2, 16, 56)  # hidden, heads, kv heads, head_dim, intermediate; groups of 32


def packed(rows, width, group=128, *, bias=False):
    """A random matrix; its weights have a spread of about width ** -0.5."""
    words = torch.randint(-(2**31), 2**31, (rows, width // 8), device=DEVICE).to(torch.int32)
    scales = (0.5 + torch.rand(rows, width // group, device=DEVICE)) * width**-0.5 / 4.6
    zeros = torch.randint(5, 11, (rows, width // group), device=DEVICE)
    return PackedMatrix(words, join_groups(scales, zeros), half(rows) if bias else None)


def half(*shape, scale=1.0):
    return (torch.randn(shape, device=DEVICE) * scale).half()


def plain(matrix):
    return unpack_matrix(matrix, torch.float64), 0.0 if matrix.bias is None else matrix.bias.double()


def times(x, matrix):
    weight, bias = plain(matrix)
    return x.double() @ weight.t() + bias


@torch.inference_mode()
def check_packed():
    """Against float64, random inputs, poisoned outputs; limit 1e-3 for the product itself."""
    empty = torch.empty

    def poison(*arguments, **keywords):
        tensor = empty(*arguments, **keywords)
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    with mock.patch("torch.empty", poison):
        for name, spec in SPECS.items():
            for rows, width in shapes(spec).values():
                matrix = packed(rows, width)
                for tokens in COUNTS:
                    check_product(name, matrix, tokens)
        matrix = packed(40, 96, 32, bias=True)
        for tokens in (1, 5, 70, 300):
            check_product("odd", matrix, tokens)
        for shape, group in ((ODD, 32), ((2048, 16, 8, 128, 8192), 128), ((4096, 32, 32, 128, 11008), 128)):
            for tokens in (1, 5, 64, 200):
                check_layer(shape, tokens, group)
    say("w4 worst: " + ", ".join(f"{name} {error:.1e}" for name, error in RESULTS["errors"].items()))


def shapes(spec):
    heads = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim
    return {
        "qkv": (heads, spec.hidden),
        "output": (spec.hidden, spec.num_heads * spec.head_dim),
        "gate_up": (2 * spec.intermediate, spec.hidden),
        "down": (spec.hidden, spec.intermediate),
    }


def check_product(name, matrix, tokens):
    x = half(tokens, matrix.shape[1])
    got = project(x, matrix)
    note(f"w4 {name} {'row' if tokens == 1 else 'tiles' if tokens <= 256 else 'unpacked'}", got.double().sum(0),
         times(x, matrix), 1e-3)  # fmt: skip


def check_layer(shape, tokens, group):
    hidden, heads, kv_heads, dim, inner = shape
    several = tokens % 2 == 0
    parts = half(3 if several else 1, tokens, hidden)
    stream = Stream(half(tokens, hidden), parts.float() if several else parts)
    norm = Norm(half(hidden), 1e-5)
    qkv = packed((heads + 2 * kv_heads) * dim, hidden, group, bias=True)
    gate_up = packed(2 * inner, hidden, group, bias=True)
    turns = torch.rand(tokens, dim // 2, device=DEVICE) * 100
    rotation, slots = Rotation(turns.cos(), turns.sin()), torch.randperm(640, device=DEVICE)[:tokens]
    pool, want_pool = (
        LayerKV(*(torch.full((10, kv_heads, 64, dim), math.nan, device=DEVICE, dtype=kind) for _ in "kv"))
        for kind in (torch.float16, torch.float64)
    )
    total = stream.residual.double() + parts.double().sum(0)
    normed = total / (total.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()
    q, residual = norm_qkv(stream, norm, qkv, rotation, pool, slots)
    note("w4 norm_qkv", q, rotate_write(times(normed, qkv), rotation, want_pool, slots), 2e-3)
    note("w4 residual", residual, total, 1e-3)
    for got, want in zip(pool, want_pool, strict=True):
        note("w4 slots", got.isnan(), want.isnan(), 1e-30)
        note("w4 kv", got.nan_to_num(), want.nan_to_num(), 2e-3)
    middle, _ = norm_gate_up(stream, norm, gate_up)
    gate, up = times(normed, gate_up).chunk(2, dim=1)
    note("w4 gate_up", middle, gate * torch.sigmoid(gate) * up, 3e-3)


def case(name, spec, kind, tokens, run):
    """`run` takes one matrix; inputs of the layer are made once."""
    rows, width = shapes(spec)[kind]
    return KernelCase(name, lambda: (packed(rows, width),), run, rows * width * 17 / 32 + 2 * tokens * (rows + width))


def layer_inputs(spec, tokens):
    stream = Stream(half(tokens, spec.hidden), half(1, tokens, spec.hidden))
    batch, blocks = INPUTS.batch([300] * tokens)
    (kv,) = INPUTS.kv(blocks, spec)
    turns = torch.rand(tokens, spec.head_dim // 2, device=DEVICE)
    return stream, Norm(half(spec.hidden), 1e-5), (Rotation(turns.cos(), turns.sin()), kv, batch.slots)


def sweep(name, spec, kind, tokens, plans, run):
    """Time `run(matrix, plan)` for each plan."""
    title, found = f"{name} {kind} M={tokens}", {}
    for plan in plans:
        if time.perf_counter() - STARTED > LIMIT_SECONDS:
            break
        try:
            key = plan if isinstance(plan, str) else tuple(plan)
            found[key] = cold_us(case(title, spec, kind, tokens, lambda m, plan=plan: run(m, plan)))[0]
        except Exception as error:
            say(f"{title} {plan}: {type(error).__name__} {str(error)[:80]}")
    RESULTS.setdefault("sweeps", {}).setdefault(title, {}).update({str(p): round(us, 2) for p, us in found.items()})
    best = sorted(found.items(), key=lambda item: item[1])[:5]
    say(f"sweep {title}: " + ", ".join(f"{plan} {us:.2f}" for plan, us in best) + f" µs, of {len(found)}")


KINDS = os.environ.get("KINDS", "qkv,output,down,gate_up").split(",")
ROW_PLANS = {  # rows (of gate; pairs of rows for qkv), warps, chunks
    "1.8B": {
        "output": ((4, 2, 1), (2, 2, 2), (4, 4, 1), (4, 4, 2), (2, 4, 4), (2, 8, 2), (2, 4, 2)),
        "down": ((4, 2, 1), (4, 4, 2), (2, 4, 4), (2, 8, 2), (2, 8, 4), (4, 8, 2), (4, 8, 4)),
        "qkv": ((1, 2), (2, 2), (4, 2), (2, 4), (4, 4), (8, 4), (4, 8), (4, 4, 2)),
        "gate_up": (
            (4, 4, 1), (8, 4, 1), (4, 4, 2), (4, 4, 4), (4, 4, 8), (8, 4, 2), (2, 4, 8), (4, 2, 4), (2, 4, 4), (4, 2, 8)
        ),
    },
    "7B": {
        "output": ((4, 2, 1), (4, 4, 1), (4, 4, 2), (2, 4, 4), (4, 8, 2), (4, 8, 4), (2, 8, 2), (8, 8, 1)),
        "down": ((4, 8), (8, 8), (4, 4), (2, 4), (2, 8), (8, 4), (16, 8), (2, 2), (4, 2)),
        "qkv": ((4, 4), (4, 4, 2), (4, 4, 4), (4, 8, 2), (4, 8, 4), (2, 8, 4), (8, 8, 2), (2, 4, 4), (8, 8, 4)),
        "gate_up": ((4, 4, 4), (4, 8, 4), (8, 8, 2), (8, 8, 4), (2, 4, 8), (4, 8, 8), (2, 8, 8), (4, 4, 8), (8, 4, 2)),
    },
}  # fmt: skip


@torch.inference_mode()
def sweep_packed_rows(name):
    """RowPlans for one token; composed: what comes before and after the product in launches of their own."""
    spec = SPECS[name]
    stream, norm, place = layer_inputs(spec, 1)
    x = {kind: half(1, width) for kind, (_, width) in shapes(spec).items()}
    fused = {"qkv": w4a16_norm_qkv_rows, "gate_up": w4a16_norm_gate_up_rows}
    composed = {"qkv": norm_qkv_reference, "gate_up": norm_gate_up_reference}
    for kind in KINDS:
        inputs = (*place,) if kind == "qkv" else ()

        def run(matrix, plan, kind=kind, inputs=inputs):
            if plan == "composed":
                return composed[kind](stream, norm, matrix, *inputs)
            if kind in fused:
                return fused[kind](stream, norm, matrix, *inputs, plan=RowPlan(*plan))
            return w4a16_rows(x[kind], matrix, plan=RowPlan(*plan))

        plans = [*ROW_PLANS[name][kind], *(["composed"] if kind in fused else [])]
        sweep(name, spec, kind, 1, plans, run)


FEW = ((64, 4, 4, 0), (64, 4, 6, 0), (128, 4, 4, 0), (128, 8, 4, 0))  # TILE_N, warps, stages, scales_weights
SOME = ((64, 4, 4, 0), (128, 8, 3, 0), (128, 8, 4, 0), (128, 8, 3, 1))
MANY = ((128, 8, 3, 1), (64, 4, 3, 1), (128, 8, 2, 1))


@torch.inference_mode()
def sweep_packed_tiles(name, tokens, tile_m):
    """PackedTilePlans for so many tokens, and unpacking."""
    spec = SPECS[name]
    stream, norm, _ = layer_inputs(spec, tokens)
    forms = FEW if tile_m <= 16 else SOME if tile_m <= 64 else MANY
    for kind in KINDS:
        rows, width = shapes(spec)[kind]
        x = half(tokens, width)
        plans = [
            PackedTilePlan(n, tile_m, 128, -(-width // splits // 128) * 128, warps, stages, bool(scaled))
            for n, warps, stages, scaled in forms
            for splits in (1, 2, 4, 8)
            if 60 <= -(-rows // n) * splits * -(-tokens // tile_m) <= (600 if tile_m <= 64 else 300)
        ]
        run = {plan: (lambda m, plan, x=x: w4a16_tiles(x, m, plan=plan)) for plan in plans}
        if tokens >= 64:
            run["unpacked"] = lambda m, plan, x=x: w4a16_unpacked(x, m)
        sweep(f"{name} TILE_M={tile_m}", spec, kind, tokens, run, lambda m, plan, run=run: run[plan](m, plan))
    if "gate_up" not in KINDS:
        return
    plans = [PackedTilePlan(n, tile_m, 128, 0, warps, stages, bool(scaled)) for n, warps, stages, scaled in forms]
    sweep(
        f"{name} fused TILE_M={tile_m}", spec, "gate_up", tokens, plans,
        lambda m, plan: w4a16_norm_gate_up_tiles(stream, norm, m, plan=plan),
    )  # fmt: skip


def make_packed_decoder(spec):
    """Random 4-bit matrices, a float16 embedding and head."""
    matrices = ("attention.qkv", "attention.output", "mlp.gate_up", "mlp.down")
    formats = {f"layers.{n}.{matrix}": AwqFormat(128) for n in range(spec.num_layers) for matrix in matrices}
    decoder = meta_decoder(spec, formats).to_empty(device=DEVICE)
    for name, weight in decoder.named_parameters():
        if weight.dtype != torch.int32:
            weight.data = weight.data.half()
            weight.data.fill_(1) if "norm" in name else weight.data.normal_(0, 0.02)
    for module_name in formats:
        module = decoder.get_submodule(module_name)
        matrix = packed(module.out_features, module.in_features)
        module.words.data.copy_(matrix.words)
        module.groups.data.copy_(matrix.groups)
    return decoder


def time_packed_steps(
    name, batches=((1, 256), (1, 1024), (2, 256), (4, 256), (8, 256), (16, 256), (64, 256), (256, 256))
):
    decoder = make_packed_decoder(SPECS[name])
    for requests, context in batches:
        guarded(time_step, decoder, f"{name} W4", requests, context)
        torch.cuda.empty_cache()
    guarded(time_prefill, decoder, f"{name} W4", 1024)
