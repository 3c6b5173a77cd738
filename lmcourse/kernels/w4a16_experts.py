"""Experts of 4-bit weights: moe_experts.py's launches, with the rows of w4a16.

    out[t] = Σ over slots s of weight[t, s] · down_e · swiglu(gate_up_e · x[t]), weights as (q − zero) · scale

Traffic, one token of Qwen1.5-MoE: 37 MB of words and groups in the place of 138 MB, 8.7 µs at 4.2 TB/s.

    rows, up to 8 tokens     gate_up: program (p, pair) a few rows of one pair's expert; down: a few rows of all slots'
                             experts, summed there; a token's x is split into pairs by each program
    unpacked, above          all experts' weights once, then moe_tiles.py

           slot 0: expert 17     slot 1: expert 4          words [ROWS, groups, words of a group] of gate and of up,
    rows p ┌───────────────┐     ┌───────────────┐         of the expert that the router named
           │ ROWS of words │     │               │

Numerics: w4a16.py's; float16 only.

Lesson: 8 (a mixture of experts)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.lang import jit, launch_options, let_next_start, next_power, tl, triton, wait_for_inputs
from lmcourse.kernels.moe_route import Routing
from lmcourse.kernels.moe_tiles import experts_tiles
from lmcourse.kernels.nibbles import load_pairs, uses_asm
from lmcourse.kernels.operands import Matrix, PackedMatrix
from lmcourse.kernels.packed import choose_unit
from lmcourse.kernels.swiglu import gate
from lmcourse.kernels.w4a16 import dot_rows_of_words, load_rows_of_words
from lmcourse.kernels.w4a16_tiles import unpack_triton

__all__ = ["MOST_PACKED_EXPERT_TOKENS", "packed_experts_rows", "packed_experts_unpacked"]

MOST_PACKED_EXPERT_TOKENS = 8
_ROWS, _WARPS = 2, 4


@jit
def _gate_up_words_kernel(
    x_ptr,
    experts_ptr,
    words_ptr,
    groups_ptr,
    out_ptr,
    INTERMEDIATE: tl.constexpr,
    SLOTS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    UNIT: tl.constexpr,
    TILE_G: tl.constexpr,
    ROWS: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: ROWS rows of gate and the same of up, of the expert in one slot of one token
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    pair = tl.program_id(1)
    m_rows = rows < INTERMEDIATE
    num_words: tl.constexpr = NUM_GROUPS * GROUP_WORDS
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load
    own = tl.load(experts_ptr + pair) * 2 * INTERMEDIATE + rows
    b_gate, g_gate = load_rows_of_words(
        words_ptr, groups_ptr, own, m_rows, NUM_GROUPS, GROUP_WORDS, TILE_G, INTERMEDIATE % ROWS != 0
    )
    b_up, g_up = load_rows_of_words(
        words_ptr, groups_ptr, own + INTERMEDIATE, m_rows, NUM_GROUPS, GROUP_WORDS, TILE_G, INTERMEDIATE % ROWS != 0
    )
    tl.static_assert(b_gate.shape == (ROWS, TILE_G, GROUP_WORDS))
    x0, x1, x2, x3 = load_pairs(x_ptr + pair // SLOTS * (num_words * 4), num_words, TILE_G, GROUP_WORDS, UNIT, ASM)
    # compute
    b_open = dot_rows_of_words(b_gate, g_gate, x0, x1, x2, x3, ASM)
    b_value = dot_rows_of_words(b_up, g_up, x0, x1, x2, x3, ASM)
    # store
    tl.store(out_ptr + pair * INTERMEDIATE + rows, gate(b_open, b_value, out_ptr.dtype.element_ty), mask=m_rows)


@jit
def _down_words_kernel(
    x_ptr,
    experts_ptr,
    shares_ptr,
    words_ptr,
    groups_ptr,
    out_ptr,
    NUM_ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    UNIT: tl.constexpr,
    TILE_G: tl.constexpr,
    ROWS: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: ROWS rows of one token's output
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1)
    m_rows = rows < NUM_ROWS
    num_words: tl.constexpr = NUM_GROUPS * GROUP_WORDS
    b_sum = tl.zeros((ROWS,), dtype=tl.float32)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    for slot in tl.static_range(SLOTS):
        # load
        pair = token * SLOTS + slot
        own = tl.load(experts_ptr + pair) * NUM_ROWS + rows
        b_words, b_groups = load_rows_of_words(
            words_ptr, groups_ptr, own, m_rows, NUM_GROUPS, GROUP_WORDS, TILE_G, NUM_ROWS % ROWS != 0
        )
        tl.static_assert(b_words.shape == (ROWS, TILE_G, GROUP_WORDS))
        x0, x1, x2, x3 = load_pairs(x_ptr + pair * (num_words * 4), num_words, TILE_G, GROUP_WORDS, UNIT, ASM)
        # compute
        b_sum += tl.load(shares_ptr + pair) * dot_rows_of_words(b_words, b_groups, x0, x1, x2, x3, ASM)
    # store
    tl.store(out_ptr + token * NUM_ROWS + rows, b_sum.to(out_ptr.dtype.element_ty), mask=m_rows)


def packed_experts_rows(x: Tensor, gate_up: PackedMatrix, down: PackedMatrix, routing: Routing) -> Tensor:
    """A few tokens of float16, in two launches; one part."""
    (num_tokens, hidden), slots = x.shape, routing.experts.shape[1]
    width = down.shape[1]
    activated = torch.empty((num_tokens * slots, width), dtype=x.dtype, device=x.device)
    _gate_up_words_kernel[(triton.cdiv(width, _ROWS), num_tokens * slots)](
        x.contiguous().view(torch.int32), routing.experts, gate_up.words, gate_up.groups, activated,
        INTERMEDIATE=width, SLOTS=slots, **_shape_of(gate_up), **launch_options(x.device),
    )  # fmt: skip
    out = torch.empty((1, num_tokens, hidden), dtype=x.dtype, device=x.device)
    _down_words_kernel[(triton.cdiv(hidden, _ROWS), num_tokens)](
        activated.view(torch.int32), routing.experts, routing.weights, down.words, down.groups, out,
        NUM_ROWS=hidden, SLOTS=slots, **_shape_of(down), **launch_options(x.device),
    )  # fmt: skip
    return out


def _shape_of(matrix: PackedMatrix) -> dict[str, int | bool]:
    groups = matrix.groups.shape[1]
    return {
        "NUM_GROUPS": groups, "GROUP_WORDS": matrix.group_size // 8, "UNIT": choose_unit(matrix.group_size),
        "TILE_G": next_power(groups), "ROWS": _ROWS, "ASM": uses_asm(), "num_warps": _WARPS,
    }  # fmt: skip


def packed_experts_unpacked(x: Tensor, gate_up: PackedMatrix, down: PackedMatrix, routing: Routing) -> Tensor:
    """Any number of tokens of float16; a part for each slot."""
    return experts_tiles(x, Matrix(unpack_triton(gate_up)), Matrix(unpack_triton(down)), routing)
