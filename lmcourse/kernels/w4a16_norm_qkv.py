"""norm_qkv for 4-bit weights: norm_qkv.py's one launch, with the rows of w4a16.py.

    (residual + parts) → RMS norm → / 16, in pairs → · words → [ q | k | v ] → rotate q and k → into their slots; q out

Traffic, one token of InternLM2-1.8B: 4.5 MB of words and groups, 1.1 µs at 4.2 TB/s; the rest is 30 KiB a program
from the L2 cache. What a program spends on the norm is as much as it spends on 32 rows, so it takes several: the more,
the wider a row is.

    program p: CHUNKS times PAIRS pairs of rows (i, i + head_dim / 2) of one head, all of k in one shot

Lesson: 4 (the kernel, line by line)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.lang import jit, launch_options, let_next_start, next_power, tl, wait_for_inputs
from lmcourse.kernels.nibbles import normed_pairs, uses_asm
from lmcourse.kernels.operands import Norm, PackedMatrix, Rotation, Stream
from lmcourse.kernels.packed import choose_unit
from lmcourse.kernels.ragged import LayerKV
from lmcourse.kernels.rotate_write import check_pool, count_heads, store_pairs
from lmcourse.kernels.w4a16 import RowPlan, dot_rows_of_words, load_rows_of_words

__all__ = ["plan_packed_qkv", "w4a16_norm_qkv_rows"]


@jit
def _load_pairs_of_rows(
    words_ptr,
    groups_ptr,
    rows,
    m_rows,
    HALF: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    TILE_G: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Rows i and i + HALF: the two features that are rotated into each other."""
    b_first, g_first = load_rows_of_words(words_ptr, groups_ptr, rows, m_rows, NUM_GROUPS, GROUP_WORDS, TILE_G, MASKED)
    b_second, g_second = load_rows_of_words(
        words_ptr, groups_ptr, rows + HALF, m_rows, NUM_GROUPS, GROUP_WORDS, TILE_G, MASKED
    )
    return b_first, g_first, b_second, g_second


@jit
def _w4a16_norm_qkv_kernel(
    residual_ptr,
    parts_ptr,
    norm_ptr,
    words_ptr,
    groups_ptr,
    bias_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    sum_ptr,
    q_ptr,
    keys_ptr,
    values_ptr,
    eps,
    NUM_PARTS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    TILE_G: tl.constexpr,
    PAIRS: tl.constexpr,
    CHUNKS: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: CHUNKS times PAIRS pairs of one head's features
    half: tl.constexpr = HEAD_DIM // 2
    width: tl.constexpr = NUM_GROUPS * GROUP_WORDS * 8
    head = tl.program_id(0) // (half // (PAIRS * CHUNKS))
    pairs = tl.program_id(0) % (half // (PAIRS * CHUNKS)) * (PAIRS * CHUNKS) + tl.arange(0, PAIRS)
    end = (pairs // (PAIRS * CHUNKS) + 1) * (PAIRS * CHUNKS)
    # load: weights do not wait
    b_first, g_first, b_second, g_second = _load_pairs_of_rows(
        words_ptr, groups_ptr, head * HEAD_DIM + pairs, pairs < half, half, NUM_GROUPS, GROUP_WORDS, TILE_G,
        MASKED=False,
    )  # fmt: skip
    tl.static_assert(b_first.shape == (PAIRS, TILE_G, GROUP_WORDS))
    let_next_start(PDL)
    wait_for_inputs(PDL)
    x0, x1, x2, x3 = normed_pairs(
        residual_ptr, parts_ptr, norm_ptr, sum_ptr, tl.program_id(0) == 0, eps, NUM_PARTS, width, TILE_G, GROUP_WORDS,
        UNIT,
    )  # fmt: skip
    for _ in range(CHUNKS):
        # load: the next pairs, while these are multiplied
        rows = head * HEAD_DIM + pairs
        n_first, gn_first, n_second, gn_second = _load_pairs_of_rows(
            words_ptr, groups_ptr, rows + PAIRS, pairs + PAIRS < end, half, NUM_GROUPS, GROUP_WORDS, TILE_G,
            MASKED=True,
        )  # fmt: skip
        # compute
        first = dot_rows_of_words(b_first, g_first, x0, x1, x2, x3, ASM)
        second = dot_rows_of_words(b_second, g_second, x0, x1, x2, x3, ASM)
        if HAS_BIAS:
            first += tl.load(bias_ptr + rows).to(tl.float32)
            second += tl.load(bias_ptr + rows + half).to(tl.float32)
        # store
        store_pairs(
            first, second, head, pairs, pairs < half, 0, cos_ptr, sin_ptr, slots_ptr, q_ptr, keys_ptr, values_ptr,
            NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, TOKENS_PER_BLOCK,
        )  # fmt: skip
        b_first, g_first, b_second, g_second = n_first, gn_first, n_second, gn_second
        pairs += PAIRS


def w4a16_norm_qkv_rows(
    stream: Stream,
    norm: Norm,
    qkv: PackedMatrix,
    rotation: Rotation,
    kv: LayerKV,
    slots: Tensor,
    *,
    plan: RowPlan | None = None,
) -> tuple[Tensor, Tensor]:
    """One token of float16, in one launch."""
    _, num_kv_heads, tokens_per_block, head_dim = kv.keys.shape
    residual, parts = stream
    num_heads, groups = count_heads(qkv.shape[0], kv), qkv.groups.shape[1]
    check_pool(kv)
    half, plan = head_dim // 2, plan or plan_packed_qkv(residual.shape[1])
    pairs = min(plan.rows, half & -half)  # a power of two that divides the half; pairs times chunks, too
    chunks = min(plan.chunks, (half & -half) // pairs)
    total = torch.empty_like(residual)
    q = torch.empty((1, num_heads, head_dim), dtype=residual.dtype, device=residual.device)
    _w4a16_norm_qkv_kernel[((num_heads + 2 * num_kv_heads) * half // (pairs * chunks),)](
        residual, parts, norm.weight, qkv.words, qkv.groups, qkv.bias, rotation.cos, rotation.sin, slots,
        total, q, kv.keys, kv.values, norm.eps,
        NUM_PARTS=parts.shape[0], NUM_GROUPS=groups, GROUP_WORDS=qkv.group_size // 8,
        UNIT=choose_unit(qkv.group_size), HAS_BIAS=qkv.bias is not None,
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim, TOKENS_PER_BLOCK=tokens_per_block,
        TILE_G=next_power(groups), PAIRS=pairs, CHUNKS=chunks, ASM=uses_asm(),
        num_warps=plan.warps, **launch_options(residual.device),
    )  # fmt: skip
    return q, total


def plan_packed_qkv(width: int) -> RowPlan:
    """Pairs of rows at a time, warps, and how often: a wide token is costly to norm."""
    return RowPlan(4, 4) if width <= 2048 else RowPlan(2, 4, 4) if width <= 4096 else RowPlan(2, 8, 4)
