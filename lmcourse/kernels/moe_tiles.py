"""Experts in tiles: the same products as moe_experts.py for many tokens, grouped by expert, on the tensor cores.

    out[slot, t] = weight[t, slot] · down_e · swiglu(gate_up_e · x[t])        a part per slot, added by the next norm

Traffic, 64 tokens of Qwen1.5-MoE: 512 pairs reach nearly all of 64 experts, 1.1 GB of weight, 265 µs at 4.2 TB/s: 4
times what the tokens would read of a dense model of the same arithmetic. At 8192 tokens it is arithmetic, 1.1 TFLOP.

        expert 0   ┌ TILE_M pairs ┐  ┌ TILE_M pairs ┐        program (tile, n): TILE_N rows of the tile's expert; x is
        rows n … ─ │              │  │        -1 -1 │        gathered by pair, and no program has more than one expert
        expert 1   └──────────────┘  └──────────────┘

How many tiles there are depends on values; how many programs start must not (a recorded step has fixed shapes). So as
many start as the worst spread needs, and those whose tile has no expert end at once.

Numerics: products in float32, activations rounded to the model's dtype; parts are float32 up to 64 tokens.

Measured (benchmarks/experts_h200, H200): 64 tokens, 3 layers of Mixtral 8x7B: 26,839 tokens a second, 3.81 TB/s.

Lesson: 8 (a mixture of experts)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lmcourse.kernels.lang import (
    jit,
    jit_varying,
    launch_options,
    let_next_start,
    load_tile,
    next_power,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.moe_route import Routing, plan_tiles_triton
from lmcourse.kernels.operands import Matrix
from lmcourse.kernels.swiglu import gate

__all__ = ["ExpertPlan", "experts_tiles", "plan_experts"]

_FEW_TOKENS = 64  # up to here the parts of slots are float32: what they cost is hidden by the weights


@jit
def _gather(x_ptr, sources, m_pairs, at, WIDTH: tl.constexpr, UNEVEN: tl.constexpr):
    """x[sources, at] as a tile [at, sources]; sources are -1 where there is no pair."""
    pointers = x_ptr + sources.to(tl.int64)[None, :] * WIDTH + at[:, None]
    return load_tile(pointers, at < WIDTH, m_pairs, UNEVEN, MASK_SECOND=True)


@jit
def _gate_up_tiles_kernel(
    x_ptr,
    weight_ptr,
    order_ptr,
    tile_experts_ptr,
    out_ptr,
    WIDTH: tl.constexpr,
    INTERMEDIATE: tl.constexpr,
    SLOTS: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_N rows of gate and the same of up, of one expert, for TILE_M of its pairs
    rows = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    m_rows = rows < INTERMEDIATE
    k = tl.arange(0, TILE_K)
    ragged: tl.constexpr = INTERMEDIATE % TILE_N != 0
    uneven: tl.constexpr = WIDTH % TILE_K != 0
    let_next_start(PDL)
    wait_for_inputs(PDL)
    expert = tl.load(tile_experts_ptr + tl.program_id(0)).to(tl.int64)
    if expert >= 0:
        pairs = tl.load(order_ptr + tl.program_id(0) * TILE_M + tl.arange(0, TILE_M))
        m_pairs = pairs >= 0
        gate_rows = weight_ptr + (expert * 2 * INTERMEDIATE + rows)[:, None] * WIDTH
        b_open = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
        b_value = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
        for start in range(0, WIDTH, TILE_K):
            # load
            at = start + k
            b_gate = load_tile(gate_rows + at[None, :], m_rows, at < WIDTH, ragged, uneven)
            b_up = load_tile(gate_rows + (INTERMEDIATE * WIDTH + at)[None, :], m_rows, at < WIDTH, ragged, uneven)
            b_x = _gather(x_ptr, pairs // SLOTS, m_pairs, at, WIDTH, uneven)
            tl.static_assert(b_x.shape == (TILE_K, TILE_M))
            # compute
            b_open = tl.dot(b_gate, b_x, b_open, input_precision="ieee")
            b_value = tl.dot(b_up, b_x, b_value, input_precision="ieee")
        # store
        b_out = gate(b_open, b_value, out_ptr.dtype.element_ty)
        o_out = pairs.to(tl.int64)[None, :] * INTERMEDIATE + rows[:, None]
        tl.store(out_ptr + o_out, b_out, mask=m_rows[:, None] & m_pairs[None, :])


@jit_varying("num_tokens")
def _down_tiles_kernel(
    x_ptr,
    shares_ptr,
    weight_ptr,
    order_ptr,
    tile_experts_ptr,
    out_ptr,
    num_tokens,
    WIDTH: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_N rows of one expert, for TILE_M of its pairs
    rows = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    m_rows = rows < NUM_ROWS
    k = tl.arange(0, TILE_K)
    ragged: tl.constexpr = NUM_ROWS % TILE_N != 0
    uneven: tl.constexpr = WIDTH % TILE_K != 0
    let_next_start(PDL)
    wait_for_inputs(PDL)
    expert = tl.load(tile_experts_ptr + tl.program_id(0)).to(tl.int64)
    if expert >= 0:
        pairs = tl.load(order_ptr + tl.program_id(0) * TILE_M + tl.arange(0, TILE_M))
        m_pairs = pairs >= 0
        b_share = tl.load(shares_ptr + pairs, mask=m_pairs, other=0.0)
        weight_rows = weight_ptr + (expert * NUM_ROWS + rows)[:, None] * WIDTH
        b_sum = tl.zeros((TILE_N, TILE_M), dtype=tl.float32)
        for start in range(0, WIDTH, TILE_K):
            # load
            at = start + k
            b_weight = load_tile(weight_rows + at[None, :], m_rows, at < WIDTH, ragged, uneven)
            b_x = _gather(x_ptr, pairs, m_pairs, at, WIDTH, uneven)
            tl.static_assert(b_x.shape == (TILE_K, TILE_M))
            # compute
            b_sum = tl.dot(b_weight, b_x, b_sum, input_precision="ieee")
        # store: the part of each pair's slot
        o_out = (pairs % SLOTS * num_tokens + pairs // SLOTS).to(tl.int64)[None, :] * NUM_ROWS + rows[:, None]
        b_out = (b_sum * b_share[None, :]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + o_out, b_out, mask=m_rows[:, None] & m_pairs[None, :])


class ExpertPlan(NamedTuple):
    """How the products of tiles are cut into programs."""

    tile_n: int
    tile_m: int
    tile_k: int
    warps: int
    stages: int


def plan_experts(num_pairs: int, total: int, itemsize: int) -> ExpertPlan:
    """Tiles about as long as what an expert gets; 4-byte dtypes take small ones, since they have no fast product."""
    tile_m = max(8, min(64, next_power(triton.cdiv(num_pairs, total))))
    if itemsize == 4:
        return ExpertPlan(32, max(16, min(32, tile_m)), 32, 4, 2)
    return ExpertPlan(64, tile_m, 128 if tile_m <= 16 else 64, 4, 3)


def experts_tiles(x: Tensor, gate_up: Matrix, down: Matrix, routing: Routing) -> Tensor:
    """Any number of tokens, in three launches; a part for each slot."""
    (num_tokens, hidden), slots = x.shape, routing.experts.shape[1]
    width, total = down.weight.shape[1], down.weight.shape[0] // hidden
    plan = plan_experts(num_tokens * slots, total, x.element_size())
    tiles = plan_tiles_triton(routing, total, plan.tile_m)
    options = {
        "SLOTS": slots, "TILE_N": plan.tile_n, "TILE_M": plan.tile_m, "TILE_K": plan.tile_k,
        "num_warps": plan.warps, "num_stages": plan.stages, **launch_options(x.device),
    }  # fmt: skip
    activated = torch.empty((num_tokens * slots, width), dtype=x.dtype, device=x.device)
    _gate_up_tiles_kernel[(len(tiles.order), triton.cdiv(width, plan.tile_n))](
        x, gate_up.weight, tiles.order, tiles.experts, activated, WIDTH=hidden, INTERMEDIATE=width, **options
    )
    dtype = torch.float32 if num_tokens <= _FEW_TOKENS else x.dtype
    parts = torch.empty((slots, num_tokens, hidden), dtype=dtype, device=x.device)
    _down_tiles_kernel[(len(tiles.order), triton.cdiv(hidden, plan.tile_n))](
        activated, routing.weights, down.weight, tiles.order, tiles.experts, parts, num_tokens,
        WIDTH=width, NUM_ROWS=hidden, **options,
    )  # fmt: skip
    return parts
