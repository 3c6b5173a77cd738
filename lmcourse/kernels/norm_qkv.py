"""Norm, qkv, rotate, write: the first launch of a layer's decode step, from the residual stream to q and the KV cache.

    (residual + parts) → RMS norm → · weightᵀ + bias → [ q | k | v ] → rotate q and k → k, v into their slots; q out

For one token all of it fits into the reading of the weight: each program sums and normalises the token for itself,
which costs 8 KiB from the L2 cache and no launch, and owns the rows of feature pairs (i, i + head_dim / 2), so that it
can rotate what it has computed.

Traffic, one token of InternLM2-1.8B: 16.8 MB of weight, 4.0 µs at 4.2 TB/s; the rest is 30 KiB. As four operations
the launches alone cost 2.6 to 4.6 µs (0.65 µs each with dependent launch, 1.15 µs without).

    rows of the weight           program p: PAIRS pairs of one head
    head h  ┌ 0               ┐
            │ i … i+PAIRS     │  ◄── first                            program 0 also stores the new residual
            │ half            │
            │ half+i …        │  ◄── second
            └                 ┘

Measured (benchmarks/kernels_gpu, H100): one token 7.4 µs, 2.26 TB/s.

Lesson: 3 (what limits a decode)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.add_norm import add_norm, norm_row, sum_row
from lmcourse.kernels.dispatch import Operation, UpTo, check_shape
from lmcourse.kernels.kv_write import write_kv
from lmcourse.kernels.lang import (
    jit,
    launch_options,
    let_next_start,
    load_row,
    next_power,
    store_row,
    tl,
    wait_for_inputs,
)
from lmcourse.kernels.operands import AnyMatrix, AnyNorm, CentredNorm, Matrix, PackedMatrix, Rotation, Stream
from lmcourse.kernels.packed_kv import AnyKV, PackedKV
from lmcourse.kernels.project import MOST_ROW_TOKENS, load_weight_rows, plan_rows, project
from lmcourse.kernels.ragged import LayerKV
from lmcourse.kernels.rotate_write import check_pool, count_heads, rotate_write, store_pairs
from lmcourse.kernels.w4a16 import MOST_PACKED_ROW_TOKENS, norms_apart
from lmcourse.kernels.w4a16_norm_qkv import w4a16_norm_qkv_rows

__all__ = ["norm_qkv", "norm_qkv_reference", "norm_qkv_rows"]


def norm_qkv_reference(
    stream: Stream, norm: AnyNorm, qkv: AnyMatrix, rotation: Rotation, kv: AnyKV, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """The composition; each piece in the form that suits the device and the number of tokens."""
    normed, residual = add_norm(stream, norm)
    return rotate_write(project(normed, qkv), rotation, kv, slots, normed.dtype), residual


@jit
def _norm_qkv_rows_kernel(
    residual_ptr,
    parts_ptr,
    norm_ptr,
    norm_bias_ptr,
    weight_ptr,
    bias_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    sum_ptr,
    q_ptr,
    keys_ptr,
    values_ptr,
    num_tokens,
    eps,
    NUM_PARTS: tl.constexpr,
    CENTRED: tl.constexpr,
    WIDTH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    TILE_K: tl.constexpr,
    PAIRS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: PAIRS pairs of one head's features
    half: tl.constexpr = HEAD_DIM // 2
    head = tl.program_id(0) // (half // PAIRS)
    pairs = tl.program_id(0) % (half // PAIRS) * PAIRS + tl.arange(0, PAIRS)
    rows = head * HEAD_DIM + pairs
    m_rows = pairs < half
    k = tl.arange(0, TILE_K)
    # load: weights do not wait
    b_first = load_weight_rows(weight_ptr, rows, m_rows, WIDTH, TILE_K, MASKED=False)
    b_second = load_weight_rows(weight_ptr, rows + half, m_rows, WIDTH, TILE_K, MASKED=False)
    tl.static_assert(b_first.shape == (PAIRS, TILE_K))
    b_norm = load_row(norm_ptr, k, WIDTH, TILE_K).to(tl.float32)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    for token in range(num_tokens):
        b_sum = sum_row(residual_ptr, parts_ptr, token, k, num_tokens, NUM_PARTS, WIDTH, TILE_K)
        # compute
        b_x = norm_row(b_sum, b_norm, norm_bias_ptr, k, eps, CENTRED, WIDTH, TILE_K)
        b_x = b_x.to(q_ptr.dtype.element_ty).to(tl.float32)
        first = tl.sum(b_first.to(tl.float32) * b_x[None, :], axis=1)
        second = tl.sum(b_second.to(tl.float32) * b_x[None, :], axis=1)
        if HAS_BIAS:
            first += tl.load(bias_ptr + rows).to(tl.float32)
            second += tl.load(bias_ptr + rows + half).to(tl.float32)
        # store
        store_pairs(
            first, second, head, pairs, m_rows, token, cos_ptr, sin_ptr, slots_ptr, q_ptr, keys_ptr, values_ptr,
            NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, TOKENS_PER_BLOCK,
        )  # fmt: skip
        if tl.program_id(0) == 0:
            store_row(sum_ptr + token * WIDTH, k, b_sum, WIDTH, TILE_K)


def norm_qkv_rows(
    stream: Stream, norm: AnyNorm, qkv: Matrix, rotation: Rotation, kv: LayerKV, slots: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Up to MOST_ROW_TOKENS tokens, in one launch; slots None: each token's slot is its number."""
    num_kv_heads, tokens_per_block, head_dim = kv.num_kv_heads, kv.tokens_per_block, kv.head_dim
    residual, parts = stream
    (num_tokens, width), num_heads = residual.shape, count_heads(qkv.weight.shape[0], kv)
    check_pool(kv)
    rows, warps = plan_rows(width, residual.element_size())
    half = head_dim // 2
    pairs = min(max(1, rows // 2), half & -half)  # a power of two that divides the half
    total = torch.empty_like(residual)
    q = torch.empty((num_tokens, num_heads, head_dim), dtype=residual.dtype, device=residual.device)
    _norm_qkv_rows_kernel[((num_heads + 2 * num_kv_heads) * half // pairs,)](
        residual, parts, norm.weight, norm.bias, qkv.weight, qkv.bias, rotation.cos, rotation.sin, slots,
        total, q, kv.keys, kv.values, num_tokens, norm.eps,
        NUM_PARTS=parts.shape[0], CENTRED=isinstance(norm, CentredNorm), WIDTH=width,
        HAS_BIAS=qkv.bias is not None, NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim, TOKENS_PER_BLOCK=tokens_per_block,
        TILE_K=next_power(width), PAIRS=pairs, num_warps=warps, **launch_options(residual.device),
    )  # fmt: skip
    return q, total


_NORM_QKV: dict[type, Operation[..., tuple[Tensor, Tensor]]] = {
    Matrix: Operation(reference=norm_qkv_reference, triton=(UpTo(MOST_ROW_TOKENS, norm_qkv_rows),)),
    PackedMatrix: Operation(
        reference=norm_qkv_reference,
        triton=(UpTo(MOST_PACKED_ROW_TOKENS, w4a16_norm_qkv_rows, dtypes=(torch.float16,)),),
    ),
}


def norm_qkv(
    stream: Stream, norm: AnyNorm, qkv: AnyMatrix, rotation: Rotation, kv: AnyKV, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """(q [num_tokens, num_heads, head_dim], residual [num_tokens, hidden]); k and v are written into kv in place."""
    residual = stream.residual
    check_shape("parts of norm_qkv", stream.parts, (stream.parts.shape[0], *residual.shape))
    check_shape("residual of norm_qkv", residual, (residual.shape[0], qkv.shape[1]))
    count_heads(qkv.shape[0], kv)
    form = _NORM_QKV[type(qkv)].form_for(residual.device, dtype=residual.dtype, num_tokens=residual.shape[0])
    if (isinstance(norm, CentredNorm) and form is not norm_qkv_rows) or norms_apart(qkv):
        form = norm_qkv_reference
    if isinstance(kv, PackedKV) and form is not norm_qkv_reference:
        # a program has a few pairs of a head, and a scale needs the whole head: quantise in a second launch
        num_tokens, shape = slots.shape[0], (kv.num_kv_heads, 1, kv.head_dim)
        plain = LayerKV(residual.new_empty((num_tokens, *shape)), residual.new_empty((num_tokens, *shape)))
        q, residual = form(stream, norm, qkv, rotation, plain, None)
        write_kv(plain.keys[:, :, 0], plain.values[:, :, 0], kv, slots)
        return q, residual
    return form(stream, norm, qkv, rotation, kv, slots)
