"""Experts: out[t] = Σ over slots s of weight[t, s] · down_e · swiglu(gate_up_e · x[t]), with e = experts[t, s].

All experts of a layer share two stacked matrices, shared experts last, so that one launch reads whatever was chosen:

    gate_up  [ gate 0 | up 0 | gate 1 | up 1 | … ]  rows        down  [ down 0 | down 1 | … ]  rows

Traffic, one token of Qwen1.5-MoE (hidden 2048, width 1408, 4 chosen + 4 shared, 2 bytes): 92 MB of gate and up, 46 MB
of down, of 1.1 GB that the layer holds: 33 µs at 4.2 TB/s. For many tokens every expert is read once.

    rows, 1 token            gate_up: program (p, s) a few rows of slot s's expert, held in registers
                             down:    program p a few rows of all slots' experts, summed there: one part
    tiles, above             pairs (token, slot) sorted by expert: moe_tiles.py

               slot 0: expert 17     slot 1: expert 4     …       gate_up: a program for each cell
        rows p ┌────────────────┐    ┌────────────────┐
               │ ROWS of gate,  │    │                │           down: a program for each line of cells
               │ ROWS of up     │    │                │

Numerics: products in float32, activations rounded to the model's dtype, slots added in float32.

Measured (benchmarks/experts_h200, H200): whole steps of one token, 6 layers of Qwen1.5-MoE, 2,336 a second, 3.89 TB/s.

Lesson: 8 (a mixture of experts)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.dispatch import Operation, UpTo, check_shape
from lmcourse.kernels.lang import (
    jit,
    launch_options,
    let_next_start,
    load_row,
    next_power,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.moe_route import Routing
from lmcourse.kernels.moe_tiles import experts_tiles
from lmcourse.kernels.operands import AnyMatrix, Int8Matrix, Matrix, PackedMatrix
from lmcourse.kernels.project import load_weight_rows, plan_rows, project
from lmcourse.kernels.swiglu import gate, swiglu
from lmcourse.kernels.w4a16_experts import (
    MOST_PACKED_EXPERT_TOKENS,
    packed_experts_rows,
    packed_experts_unpacked,
)

__all__ = [
    "expert_of",
    "experts_chosen",
    "experts_reference",
    "experts_rows",
    "run_experts",
]

_MOST_ROW_TOKENS = 1


def experts_reference(x: Tensor, gate_up: AnyMatrix, down: AnyMatrix, routing: Routing) -> Tensor:
    """Every expert for every token, those that a token did not choose times 0: no value decides what runs."""
    total = down.shape[0] // x.shape[1]
    shares = x.new_zeros((len(x), total), dtype=torch.float32).scatter_add_(1, routing.experts.long(), routing.weights)
    out = torch.zeros_like(x, dtype=torch.float32)
    for number in range(total):
        out += shares[:, number, None] * _expert(x, gate_up, down, number, total)
    return out.to(x.dtype)[None]


def experts_chosen(x: Tensor, gate_up: AnyMatrix, down: AnyMatrix, routing: Routing) -> Tensor:
    """The CPU's form: each expert for the tokens that chose it."""
    total = down.shape[0] // x.shape[1]
    out = torch.zeros_like(x, dtype=torch.float32)
    for number in routing.experts.unique().tolist():
        tokens, slots = (routing.experts == number).nonzero(as_tuple=True)
        products = _expert(x[tokens], gate_up, down, number, total).float()
        out.index_add_(0, tokens, routing.weights[tokens, slots, None] * products)
    return out.to(x.dtype)[None]


def _expert(x: Tensor, gate_up: AnyMatrix, down: AnyMatrix, number: int, total: int) -> Tensor:
    activated = swiglu(project(x, expert_of(gate_up, number, total)).sum(dim=0).to(x.dtype))
    return project(activated, expert_of(down, number, total)).sum(dim=0)


def expert_of(stacked: AnyMatrix, number: int, total: int) -> AnyMatrix:
    """One expert's rows of a stacked matrix."""
    rows = stacked.shape[0] // total
    mine = slice(number * rows, (number + 1) * rows)
    assert not isinstance(stacked, Int8Matrix), "only heads have 8 bits"
    if isinstance(stacked, PackedMatrix):
        return PackedMatrix(stacked.words[mine], stacked.groups[mine])
    return Matrix(stacked.weight[mine])


@jit
def _gate_up_rows_kernel(
    x_ptr,
    experts_ptr,
    weight_ptr,
    out_ptr,
    WIDTH: tl.constexpr,
    INTERMEDIATE: tl.constexpr,
    SLOTS: tl.constexpr,
    TILE_K: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: ROWS rows of gate and the same of up, of the expert in one slot of one token
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    pair = tl.program_id(1)
    m_rows = rows < INTERMEDIATE
    k = tl.arange(0, TILE_K)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load: which weights is known only now
    expert = tl.load(experts_ptr + pair).to(tl.int64)
    own_ptr = weight_ptr + expert * 2 * INTERMEDIATE * WIDTH
    ragged: tl.constexpr = INTERMEDIATE % ROWS != 0
    b_gate = load_weight_rows(own_ptr, rows, m_rows, WIDTH, TILE_K, ragged)
    b_up = load_weight_rows(own_ptr, rows + INTERMEDIATE, m_rows, WIDTH, TILE_K, ragged)
    b_x = load_row(x_ptr + pair // SLOTS * WIDTH, k, WIDTH, TILE_K).to(tl.float32)
    tl.static_assert(b_gate.shape == (ROWS, TILE_K))
    # compute
    b_open = tl.sum(b_gate.to(tl.float32) * b_x[None, :], axis=1)
    b_value = tl.sum(b_up.to(tl.float32) * b_x[None, :], axis=1)
    # store
    tl.store(out_ptr + pair * INTERMEDIATE + rows, gate(b_open, b_value, out_ptr.dtype.element_ty), mask=m_rows)


@jit
def _down_rows_kernel(
    x_ptr,
    experts_ptr,
    shares_ptr,
    weight_ptr,
    out_ptr,
    WIDTH: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    TILE_K: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: ROWS rows of one token's output
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1)
    m_rows = rows < NUM_ROWS
    k = tl.arange(0, TILE_K)
    b_sum = tl.zeros((ROWS,), dtype=tl.float32)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    for slot in tl.static_range(SLOTS):
        # load
        pair = token * SLOTS + slot
        expert = tl.load(experts_ptr + pair).to(tl.int64)
        share = tl.load(shares_ptr + pair)
        own_ptr = weight_ptr + expert * NUM_ROWS * WIDTH
        b_weight = load_weight_rows(own_ptr, rows, m_rows, WIDTH, TILE_K, NUM_ROWS % ROWS != 0)
        b_x = load_row(x_ptr + pair * WIDTH, k, WIDTH, TILE_K).to(tl.float32)
        tl.static_assert(b_weight.shape == (ROWS, TILE_K))
        # compute
        b_sum += share * tl.sum(b_weight.to(tl.float32) * b_x[None, :], axis=1)
    # store
    tl.store(out_ptr + token * NUM_ROWS + rows, b_sum.to(out_ptr.dtype.element_ty), mask=m_rows)


def experts_rows(x: Tensor, gate_up: Matrix, down: Matrix, routing: Routing) -> Tensor:
    """Up to a few tokens, in two launches; one part."""
    (num_tokens, hidden), slots = x.shape, routing.experts.shape[1]
    width = down.weight.shape[1]
    rows, warps = plan_rows(hidden, x.element_size(), most_elements=64)
    rows = max(1, rows // 2)
    activated = torch.empty((num_tokens * slots, width), dtype=x.dtype, device=x.device)
    _gate_up_rows_kernel[(triton.cdiv(width, rows), num_tokens * slots)](
        x, routing.experts, gate_up.weight, activated,
        WIDTH=hidden, INTERMEDIATE=width, SLOTS=slots, TILE_K=next_power(hidden), ROWS=rows,
        num_warps=warps, **launch_options(x.device),
    )  # fmt: skip
    rows, warps = plan_rows(width, x.element_size(), most_elements=64)
    rows = max(1, rows // 2)
    out = torch.empty((1, num_tokens, hidden), dtype=x.dtype, device=x.device)
    _down_rows_kernel[(triton.cdiv(hidden, rows), num_tokens)](
        activated, routing.experts, routing.weights, down.weight, out,
        WIDTH=width, NUM_ROWS=hidden, SLOTS=slots, TILE_K=next_power(width), ROWS=rows,
        num_warps=warps, **launch_options(x.device),
    )  # fmt: skip
    return out


_EXPERTS: dict[type, Operation[..., Tensor]] = {
    Matrix: Operation(
        reference=experts_reference,
        by_device={"cpu": experts_chosen},
        triton=(UpTo(_MOST_ROW_TOKENS, experts_rows), UpTo(float("inf"), experts_tiles)),
    ),
    PackedMatrix: Operation(
        reference=experts_reference,
        by_device={"cpu": experts_chosen},
        triton=(
            UpTo(MOST_PACKED_EXPERT_TOKENS, packed_experts_rows, dtypes=(torch.float16,)),
            UpTo(float("inf"), packed_experts_unpacked, dtypes=(torch.float16,)),
        ),
    ),
}


def run_experts(x: Tensor, gate_up: AnyMatrix, down: AnyMatrix, routing: Routing) -> Tensor:
    """x: [num_tokens, hidden] → parts [num_parts, num_tokens, hidden], which add up to what the experts give back.

    gate_up: [experts · 2 · width, hidden]; down: [experts · hidden, width]. Neither has a bias.
    """
    (num_tokens, hidden), total = x.shape, down.shape[0] // x.shape[1]
    check_shape("weights of run_experts", routing.weights, tuple(routing.experts.shape))
    check_shape("x of run_experts", x, (routing.experts.shape[0], gate_up.shape[1]))
    if down.shape[0] != total * hidden or gate_up.shape[0] != 2 * total * down.shape[1]:
        raise ValueError(
            f"gate_up and down are not of the same experts\n  expected: [experts * 2 * width, {hidden}] and "
            f"[experts * {hidden}, width]\n  got: {list(gate_up.shape)} and {list(down.shape)}"
        )
    if num_tokens == 0:
        return x.new_empty((1, 0, hidden))
    return _EXPERTS[type(gate_up)].form_for(x.device, dtype=x.dtype, num_tokens=num_tokens)(x, gate_up, down, routing)
