"""Routing: which experts a token goes to, and how much of each comes back (arXiv 1701.06538 §2; 2401.04088 §2.1).

    share = softmax(logits)     the `chosen` largest, as they are (Qwen1.5-MoE, DeepSeek-MoE) or divided by their sum
                                (Mixtral, Dbrx); then the shared experts, with 1 or sigmoid(the last logit)

A token's slots are its chosen experts and the shared ones: every token has as many, so shapes never depend on values
and a step can be recorded.

Traffic, 64 tokens of Qwen1.5-MoE (61 logits, 8 slots): 16 KiB in, 4 KiB out: a launch, nothing else.

    program t     logits [t, :]  →  experts [t, slots], weights [t, slots]

`plan_tiles` then sorts the pairs (token, slot) by expert, so that a program of moe_experts.py reads one expert's rows
for TILE_M pairs at once; each expert begins a tile of its own, and -1 fills what is left of its last one:

    order          pairs of expert 0 … -1 -1 │ pairs of expert 1 … │ …        tile_experts   0 0 1 …  -1 -1

Lesson: 8 (a mixture of experts)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lmcourse.kernels.dispatch import Operation, UpTo, check_shape
from lmcourse.kernels.lang import jit_varying, launch_options, let_next_start, next_power, tl, wait_for_inputs
from lmcourse.spec import ExpertSpec

__all__ = ["ExpertTiles", "Routing", "plan_tiles", "plan_tiles_triton", "route", "route_reference", "route_triton"]


class Routing(NamedTuple):
    """Where the tokens of a step go."""

    experts: Tensor  # int32 [num_tokens, slots]
    weights: Tensor  # float32 [num_tokens, slots]


class ExpertTiles(NamedTuple):
    """The pairs (token, slot) of a step, numbered token · slots + slot, by expert."""

    order: Tensor  # int32 [tiles, tile_m]; -1: no pair
    experts: Tensor  # int32 [tiles]; -1: nothing to do


def route_reference(parts: Tensor, spec: ExpertSpec) -> Routing:
    """The formula, in float32."""
    logits = parts.float().sum(dim=0)
    shares = logits[:, : spec.count].softmax(dim=1)
    weights, experts = shares.topk(spec.chosen, dim=1)
    if spec.renormalise:
        weights = weights / weights.sum(dim=1, keepdim=True)
    ones = weights.new_ones((len(logits), spec.num_shared))
    always = torch.arange(spec.count, spec.total, device=logits.device).expand(ones.shape)
    gates = logits[:, spec.count :].sigmoid() * ones if spec.shared_gate else ones
    return Routing(torch.cat((experts, always), dim=1).int(), torch.cat((weights * spec.scale, gates), dim=1))


@jit_varying("num_tokens")
def _route_kernel(
    parts_ptr,
    experts_ptr,
    weights_ptr,
    num_tokens,
    NUM_PARTS: tl.constexpr,
    COUNT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHOSEN: tl.constexpr,
    SLOTS: tl.constexpr,
    RENORMALISE: tl.constexpr,
    SCALE: tl.constexpr,
    TILE: tl.constexpr,
    TILE_SLOTS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: one token
    token = tl.program_id(0)
    at, slots = tl.arange(0, TILE), tl.arange(0, TILE_SLOTS)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load
    b_logits = tl.zeros((TILE,), dtype=tl.float32)
    for part in tl.static_range(NUM_PARTS):
        b_logits += tl.load(parts_ptr + (part * num_tokens + token) * WIDTH + at, mask=at < WIDTH, other=0.0)
    # compute
    b_routed = tl.where(at < COUNT, b_logits, float("-inf"))
    b_shares = tl.exp(b_routed - tl.max(b_routed, axis=0))
    whole = tl.sum(b_shares, axis=0)
    b_left = tl.where(at < COUNT, b_shares / whole, -1.0)
    b_gate = tl.where(at == COUNT, 1.0 / (1.0 + tl.exp(-b_logits)), 0.0)
    always = tl.sum(b_gate, axis=0) if WIDTH > COUNT else 1.0
    b_experts = COUNT + slots - CHOSEN
    b_weights = tl.zeros((TILE_SLOTS,), dtype=tl.float32)
    for slot in tl.static_range(CHOSEN):
        share = tl.max(b_left, axis=0)
        # of equal shares the first; a share that is not a number equals none, and some expert stands in
        expert = tl.minimum(tl.min(tl.where(b_left == share, at, TILE), axis=0), COUNT - 1)
        b_experts = tl.where(slots == slot, expert, b_experts)
        b_weights = tl.where(slots == slot, share, b_weights)
        b_left = tl.where(at == expert, -1.0, b_left)
    if RENORMALISE:
        b_weights = b_weights / tl.sum(b_weights, axis=0)
    b_weights = tl.where(slots < CHOSEN, b_weights * SCALE, always) + (whole - whole)  # not 0 if it is not finite
    # store
    tl.store(experts_ptr + token * SLOTS + slots, b_experts, mask=slots < SLOTS)
    tl.store(weights_ptr + token * SLOTS + slots, b_weights, mask=slots < SLOTS)


def route_triton(parts: Tensor, spec: ExpertSpec) -> Routing:
    """One program per token."""
    num_parts, num_tokens, width = parts.shape
    experts = torch.empty((num_tokens, spec.slots), dtype=torch.int32, device=parts.device)
    weights = torch.empty((num_tokens, spec.slots), dtype=torch.float32, device=parts.device)
    _route_kernel[(num_tokens,)](
        parts, experts, weights, num_tokens,
        NUM_PARTS=num_parts, COUNT=spec.count, WIDTH=width, CHOSEN=spec.chosen, SLOTS=spec.slots,
        RENORMALISE=spec.renormalise, SCALE=spec.scale, TILE=next_power(width), TILE_SLOTS=next_power(spec.slots),
        num_warps=max(1, min(4, next_power(width) // 64)), **launch_options(parts.device),
    )  # fmt: skip
    return Routing(experts, weights)


_ROUTE = Operation(reference=route_reference, triton=(UpTo(float("inf"), route_triton),))


def route(parts: Tensor, spec: ExpertSpec) -> Routing:
    """parts: float32 [num_parts, num_tokens, count (+ 1 with a shared gate)], which add up to the router's logits."""
    check_shape("logits of route", parts, (*parts.shape[:2], spec.count + spec.shared_gate))
    if parts.shape[1] == 0:
        return route_reference(parts, spec)
    return _ROUTE.form_for(parts.device)(parts, spec)


def plan_tiles(routing: Routing, total: int, tile_m: int) -> ExpertTiles:
    """The reference of plan_tiles_triton: the same tiles, in the same order."""
    pairs = routing.experts.flatten().cpu()
    orders, experts = [], []
    for expert in range(total):
        mine = (pairs == expert).nonzero().flatten().int()
        for start in range(0, len(mine), tile_m):
            tile = mine[start : start + tile_m]
            orders.append(torch.nn.functional.pad(tile, (0, tile_m - len(tile)), value=-1))
            experts.append(expert)
    missing = _most_tiles(len(pairs), total, tile_m) - len(experts)
    orders += [torch.full((tile_m,), -1, dtype=torch.int32)] * missing
    order = torch.stack(orders).to(routing.experts.device)
    return ExpertTiles(order, order.new_tensor(experts + [-1] * missing))


@jit_varying("num_pairs", "most_tiles")
def _plan_tiles_kernel(
    pairs_ptr,
    order_ptr,
    tile_experts_ptr,
    num_pairs,
    most_tiles,
    TOTAL: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_E: tl.constexpr,
    CHUNK: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: one expert
    expert = tl.program_id(0)
    experts, places, rows = tl.arange(0, TILE_E), tl.arange(0, CHUNK), tl.arange(0, TILE_M)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load: how many pairs each expert has
    b_counts = tl.zeros((TILE_E,), dtype=tl.int32)
    for start in range(0, num_pairs, CHUNK):
        b_pairs = tl.load(pairs_ptr + start + places, mask=start + places < num_pairs, other=-1)
        b_counts += tl.sum((b_pairs[:, None] == experts[None, :]).to(tl.int32), axis=0)
    # compute: where mine begin
    b_tiles = (b_counts + TILE_M - 1) // TILE_M
    count = tl.sum(tl.where(experts == expert, b_counts, 0), axis=0)
    first = tl.sum(tl.where(experts < expert, b_tiles, 0), axis=0)
    last = first + tl.sum(tl.where(experts == expert, b_tiles, 0), axis=0)
    # store: my pairs in their order, then what fills my last tile
    seen = 0
    for start in range(0, num_pairs, CHUNK):
        b_mine = tl.load(pairs_ptr + start + places, mask=start + places < num_pairs, other=-1) == expert
        b_rank = seen + tl.cumsum(b_mine.to(tl.int32), axis=0) - 1
        tl.store(order_ptr + first * TILE_M + b_rank, start + places, mask=b_mine)
        seen += tl.sum(b_mine.to(tl.int32), axis=0)
    at = first * TILE_M + count + rows
    tl.store(order_ptr + at, tl.full((TILE_M,), -1, tl.int32), mask=at < last * TILE_M)
    for start in range(first, last, CHUNK):
        tl.store(tile_experts_ptr + start + places, expert + 0 * places, mask=start + places < last)
    if expert == TOTAL - 1:
        for start in range(last, most_tiles, CHUNK):
            tl.store(tile_experts_ptr + start + places, -1 + 0 * places, mask=start + places < most_tiles)


def plan_tiles_triton(routing: Routing, total: int, tile_m: int) -> ExpertTiles:
    """One program per expert, each of which counts all pairs; tiles without an expert have no order."""
    pairs = routing.experts
    tiles = _most_tiles(pairs.numel(), total, tile_m)
    order = torch.empty((tiles, tile_m), dtype=torch.int32, device=pairs.device)
    experts = torch.empty((tiles,), dtype=torch.int32, device=pairs.device)
    _plan_tiles_kernel[(total,)](
        pairs, order, experts, pairs.numel(), tiles,
        TOTAL=total, TILE_M=tile_m, TILE_E=next_power(total), CHUNK=128, num_warps=4, **launch_options(pairs.device),
    )  # fmt: skip
    return ExpertTiles(order, experts)


def _most_tiles(num_pairs: int, total: int, tile_m: int) -> int:
    """However the pairs are spread: full tiles, and one that is not for each expert."""
    return num_pairs // tile_m + min(num_pairs, total)
