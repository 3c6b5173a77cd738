"""Rotate and write: q and k of a step turn to their positions; k and v go to their slots of the KV cache.

    parts of qkv [num_parts, num_tokens, Q heads | K heads | V heads]
                                           │         │         │
                                         rotate    rotate      │
                                           ▼         ▼         ▼
                                     q, returned   keys[block, head, offset], values[block, head, offset]

What `rotate` and `write_kv` do one after the other, with nothing stored in between.

Traffic, one token and layer of InternLM2-1.8B (16 + 8 + 8 heads of 128, 2 bytes):

    split, rotate, write, as torch does it     read 8, write 6, read 6, write 6 …       ≥ 28 KiB
    rotate_write                               read 8, write 8, and 0.5 of angles       16.5 KiB

    program (t, g)   token t, heads 32·g to 32·g + 31: feature pairs (i, i + head_dim / 2), whatever the head becomes

Numerics: float32 inside; the sum of parts is rounded to the model's dtype before it is turned, as if it were stored.

Measured (benchmarks/kernels_gpu, H100): with add_norm and the matrix, 8 tokens 11.2 µs; 3.8 µs over norm_qkv's one.

Lesson: 3 (paging)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.dispatch import Operation, UpTo, check_shape
from lmcourse.kernels.kv_write import write_kv_reference
from lmcourse.kernels.lang import (
    jit,
    jit_varying,
    launch_options,
    let_next_start,
    next_power,
    tl,
    triton,
    wait_for_inputs,
)
from lmcourse.kernels.operands import Rotation, sum_parts
from lmcourse.kernels.packed_kv import AnyKV, PackedKV, store_cells
from lmcourse.kernels.rotary import rotate_heads

__all__ = ["check_pool", "count_heads", "rotate_write", "rotate_write_reference", "rotate_write_triton", "store_pairs"]


def count_heads(width: int, kv: AnyKV) -> int:
    """Query heads of a qkv projection so wide, over such a cache; ValueError if they do not come out even."""
    num_kv_heads, head_dim = kv.num_kv_heads, kv.head_dim
    num_heads, rest = divmod(width - 2 * num_kv_heads * head_dim, head_dim)
    if rest or num_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(
            "qkv does not split into query, key and value heads\n"
            f"  expected: (n + 2) · {num_kv_heads} heads of {head_dim}\n  got: {width} features"
        )
    return num_heads


def check_pool(kv: AnyKV) -> None:
    """Raise ValueError unless blocks lie as the kernels reckon them: one after the other, without gaps."""
    tensors = [tensor for tensor in kv if isinstance(tensor, Tensor)]
    if not all(tensor.is_contiguous() for tensor in tensors):
        strides = [tensor.stride() for tensor in tensors]
        raise ValueError(f"the kernels need a KV pool without gaps\n  expected: contiguous tensors\n  got: {strides}")


def rotate_write_reference(parts: Tensor, rotation: Rotation, kv: AnyKV, slots: Tensor, dtype: torch.dtype) -> Tensor:
    """`rotate`, then `write_kv`."""
    num_kv_heads, head_dim = kv.num_kv_heads, kv.head_dim
    heads = sum_parts(parts, dtype).view(slots.shape[0], -1, head_dim)
    turned = rotate_heads(heads[:, :-num_kv_heads], rotation.cos[:, None], rotation.sin[:, None])
    write_kv_reference(turned[:, -num_kv_heads:], heads[:, -num_kv_heads:], kv, slots)
    return turned[:, :-num_kv_heads]


@jit
def _turn_pairs(first, second, row, pairs, m_pairs, cos_ptr, sin_ptr, HALF: tl.constexpr):
    """Both halves' features, turned by the angles of token `row`."""
    cos = tl.load(cos_ptr + row * HALF + pairs, mask=m_pairs, other=0.0)
    sin = tl.load(sin_ptr + row * HALF + pairs, mask=m_pairs, other=0.0)
    return first * cos - second * sin, second * cos + first * sin


@jit
def store_pairs(
    first,
    second,
    head,
    pairs,
    m_pairs,
    token,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    q_ptr,
    keys_ptr,
    values_ptr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
):
    """Features `pairs` and `pairs` + HEAD_DIM / 2 of heads: turned, unless they are values, and put where they go.

    A token's slot is its number where slots_ptr is None.
    """
    half: tl.constexpr = HEAD_DIM // 2
    row = tl.cast(token, tl.int64)
    dtype: tl.constexpr = q_ptr.dtype.element_ty
    first, second = first.to(dtype).to(tl.float32), second.to(dtype).to(tl.float32)
    turned_first, turned_second = _turn_pairs(first, second, row, pairs, m_pairs, cos_ptr, sin_ptr, half)
    out = q_ptr + (row * NUM_HEADS + head) * HEAD_DIM + pairs
    m_q = m_pairs & (head < NUM_HEADS)
    tl.store(out, turned_first.to(dtype), mask=m_q)
    tl.store(out + half, turned_second.to(dtype), mask=m_q)

    slot = row if slots_ptr is None else tl.load(slots_ptr + row)
    block, offset = slot // TOKENS_PER_BLOCK, slot % TOKENS_PER_BLOCK
    i_kv = tl.maximum(head - NUM_HEADS, 0) % NUM_KV_HEADS
    place = ((block * NUM_KV_HEADS + i_kv) * TOKENS_PER_BLOCK + offset) * HEAD_DIM + pairs
    kv_dtype: tl.constexpr = keys_ptr.dtype.element_ty
    m_k = m_pairs & (head >= NUM_HEADS) & (head < NUM_HEADS + NUM_KV_HEADS)
    tl.store(keys_ptr + place, turned_first.to(kv_dtype), mask=m_k)
    tl.store(keys_ptr + place + half, turned_second.to(kv_dtype), mask=m_k)
    m_v = m_pairs & (head >= NUM_HEADS + NUM_KV_HEADS)
    tl.store(values_ptr + place, first.to(kv_dtype), mask=m_v)
    tl.store(values_ptr + place + half, second.to(kv_dtype), mask=m_v)


@jit
def _store_quantised(
    first,
    second,
    head,
    pairs,
    m_pairs,
    token,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    q_ptr,
    keys_ptr,
    values_ptr,
    key_scales_ptr,
    value_scales_ptr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    BITS: tl.constexpr,
    NUM_SCALES: tl.constexpr,
):
    """`store_pairs` for whole heads and a quantised cache."""
    half: tl.constexpr = HEAD_DIM // 2
    row = tl.cast(token, tl.int64)
    dtype: tl.constexpr = q_ptr.dtype.element_ty
    first, second = first.to(dtype).to(tl.float32), second.to(dtype).to(tl.float32)
    turned_first, turned_second = _turn_pairs(first, second, row, pairs, m_pairs, cos_ptr, sin_ptr, half)
    turned_first, turned_second = turned_first.to(dtype), turned_second.to(dtype)
    out = q_ptr + (row * NUM_HEADS + head) * HEAD_DIM + pairs
    m_q = m_pairs & (head < NUM_HEADS)
    tl.store(out, turned_first, mask=m_q)
    tl.store(out + half, turned_second, mask=m_q)

    slot = tl.load(slots_ptr + row)
    i_kv = tl.maximum(head - NUM_HEADS, 0) % NUM_KV_HEADS
    m_k = m_pairs & (head >= NUM_HEADS) & (head < NUM_HEADS + NUM_KV_HEADS)
    store_cells(
        turned_first.to(tl.float32), turned_second.to(tl.float32), i_kv, pairs, m_k, slot, keys_ptr, key_scales_ptr,
        NUM_KV_HEADS, HEAD_DIM, TOKENS_PER_BLOCK, BITS, NUM_SCALES,
    )  # fmt: skip
    m_v = m_pairs & (head >= NUM_HEADS + NUM_KV_HEADS)
    store_cells(
        first, second, i_kv, pairs, m_v, slot, values_ptr, value_scales_ptr,
        NUM_KV_HEADS, HEAD_DIM, TOKENS_PER_BLOCK, BITS, NUM_SCALES,
    )  # fmt: skip


@jit_varying("num_tokens")
def _rotate_write_kernel(
    parts_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    q_ptr,
    keys_ptr,
    values_ptr,
    key_scales_ptr,
    value_scales_ptr,
    num_tokens,
    NUM_PARTS: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    BITS: tl.constexpr,
    NUM_SCALES: tl.constexpr,
    TILE_HEADS: tl.constexpr,
    TILE_PAIRS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE_HEADS heads of one token
    token = tl.program_id(0)
    head = (tl.program_id(1) * TILE_HEADS + tl.arange(0, TILE_HEADS))[:, None]
    pairs = tl.arange(0, TILE_PAIRS)[None, :]
    heads: tl.constexpr = NUM_HEADS + 2 * NUM_KV_HEADS
    m_pairs = (pairs < HEAD_DIM // 2) & (head < heads)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load: the sum of the parts
    first = tl.zeros((TILE_HEADS, TILE_PAIRS), dtype=tl.float32)
    second = tl.zeros((TILE_HEADS, TILE_PAIRS), dtype=tl.float32)
    for part in tl.static_range(NUM_PARTS):
        row = (part * num_tokens + token).to(tl.int64) * heads
        source = parts_ptr + (row + head) * HEAD_DIM + pairs
        first += tl.load(source, mask=m_pairs, other=0.0).to(tl.float32)
        second += tl.load(source + HEAD_DIM // 2, mask=m_pairs, other=0.0).to(tl.float32)
    # compute, store
    if NUM_SCALES == 0:
        store_pairs(
            first, second, head, pairs, m_pairs, token, cos_ptr, sin_ptr, slots_ptr, q_ptr, keys_ptr, values_ptr,
            NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, TOKENS_PER_BLOCK,
        )  # fmt: skip
    else:
        _store_quantised(
            first, second, head, pairs, m_pairs, token, cos_ptr, sin_ptr, slots_ptr, q_ptr, keys_ptr, values_ptr,
            key_scales_ptr, value_scales_ptr,
            NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, TOKENS_PER_BLOCK, BITS, NUM_SCALES,
        )  # fmt: skip


def rotate_write_triton(parts: Tensor, rotation: Rotation, kv: AnyKV, slots: Tensor, dtype: torch.dtype) -> Tensor:
    """One program per token and up to 32 heads."""
    num_kv_heads, head_dim = kv.num_kv_heads, kv.head_dim
    num_parts, num_tokens, width = parts.shape
    check_pool(kv)
    num_heads = count_heads(width, kv)
    scales, bits, num_scales = (
        (kv.scales, kv.form.bits, kv.form.num_scales) if isinstance(kv, PackedKV) else ((None, None), 0, 0)
    )
    q = torch.empty((num_tokens, num_heads, head_dim), dtype=dtype, device=parts.device)
    tile_heads = min(32, next_power(num_heads + 2 * num_kv_heads))
    _rotate_write_kernel[(num_tokens, triton.cdiv(num_heads + 2 * num_kv_heads, tile_heads))](
        parts, rotation.cos, rotation.sin, slots, q, kv.keys, kv.values, *scales, num_tokens,
        NUM_PARTS=num_parts, NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim,
        TOKENS_PER_BLOCK=kv.tokens_per_block, BITS=bits,
        NUM_SCALES=num_scales, TILE_HEADS=tile_heads, TILE_PAIRS=next_power(head_dim // 2),
        num_warps=4, **launch_options(parts.device),
    )  # fmt: skip
    return q


_ROTATE_WRITE = Operation(reference=rotate_write_reference, triton=(UpTo(float("inf"), rotate_write_triton),))


def rotate_write(parts: Tensor, rotation: Rotation, kv: AnyKV, slots: Tensor, dtype: torch.dtype) -> Tensor:
    """parts [num_parts, num_tokens, qkv] → q [num_tokens, num_heads, head_dim] in dtype; writes into kv in place."""
    half = kv.head_dim // 2
    check_shape("cos of rotate_write", rotation.cos, (slots.shape[0], half))
    check_shape("sin of rotate_write", rotation.sin, (slots.shape[0], half))
    check_shape("parts of rotate_write", parts, (parts.shape[0], slots.shape[0], parts.shape[2]))
    count_heads(parts.shape[2], kv)
    if slots.shape[0] == 0:
        return rotate_write_reference(parts, rotation, kv, slots, dtype)
    return _ROTATE_WRITE.form_for(parts.device, dtype=dtype)(parts, rotation, kv, slots, dtype)
