"""KV write: keys[block, :, offset] = k and values[block, :, offset] = v, with slot = block · tokens_per_block + offset.

Where a token's keys and values live is decided by the block manager, not by the token's place in the batch: a slot
number per token is all that this operation knows of paging. How they are stored is the cache's business: as they are
(ragged.py), or in 8 or 4 bits (packed_kv.py).

    token    0     1     2              block 7                 block 2
    slot   447   128   129      →      [ …  …  … t0 ]          [ t1 t2 …  … ]        tokens_per_block = 64

Traffic, one token and layer of InternLM2-1.8B (8 heads of 128, 2 bytes): read k and v, write them: 8 KiB, or 6 KiB into
an int8 cache; the whole model's 24 layers keep 96 KiB per token, 49 KiB of int8.

    program t   all heads of token t: one row of k, one of v → scale → cells        (the quantised kind)

Lesson: 3 (paging)
"""

from __future__ import annotations

from torch import Tensor

from lmcourse.kernels.dispatch import Operation, UpTo, check_shape
from lmcourse.kernels.lang import jit, launch_options, let_next_start, next_power, tl, wait_for_inputs
from lmcourse.kernels.packed_kv import AnyKV, PackedKV, store_cells
from lmcourse.kernels.ragged import LayerKV

__all__ = ["write_kv", "write_kv_reference", "write_kv_triton"]


def write_kv_reference(keys: Tensor, values: Tensor, layer: AnyKV, slots: Tensor) -> None:
    """The formula, for all tokens at once."""
    layer.write(keys, values, slots)


@jit
def _write_kv_kernel(
    k_ptr,
    v_ptr,
    slots_ptr,
    keys_ptr,
    values_ptr,
    key_scales_ptr,
    value_scales_ptr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    BITS: tl.constexpr,
    NUM_SCALES: tl.constexpr,
    TILE_HEADS: tl.constexpr,
    TILE_PAIRS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: all heads of one token
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, TILE_HEADS)[:, None]
    pairs = tl.arange(0, TILE_PAIRS)[None, :]
    half: tl.constexpr = HEAD_DIM // 2
    m_pairs = (pairs < half) & (head < NUM_KV_HEADS)
    let_next_start(PDL)
    slot = tl.load(slots_ptr + token)
    wait_for_inputs(PDL)
    at = (token * NUM_KV_HEADS + head) * HEAD_DIM + pairs
    # load
    k_first = tl.load(k_ptr + at, mask=m_pairs, other=0.0).to(tl.float32)
    k_second = tl.load(k_ptr + at + half, mask=m_pairs, other=0.0).to(tl.float32)
    v_first = tl.load(v_ptr + at, mask=m_pairs, other=0.0).to(tl.float32)
    v_second = tl.load(v_ptr + at + half, mask=m_pairs, other=0.0).to(tl.float32)
    tl.static_assert(k_first.shape == (TILE_HEADS, TILE_PAIRS))
    # compute, store
    store_cells(
        k_first, k_second, head, pairs, m_pairs, slot, keys_ptr, key_scales_ptr,
        NUM_KV_HEADS, HEAD_DIM, TOKENS_PER_BLOCK, BITS, NUM_SCALES,
    )  # fmt: skip
    store_cells(
        v_first, v_second, head, pairs, m_pairs, slot, values_ptr, value_scales_ptr,
        NUM_KV_HEADS, HEAD_DIM, TOKENS_PER_BLOCK, BITS, NUM_SCALES,
    )  # fmt: skip


def write_kv_triton(keys: Tensor, values: Tensor, layer: PackedKV, slots: Tensor) -> None:
    """One program per token; keys and values [num_tokens, num_kv_heads, head_dim] without gaps."""
    num_tokens, num_kv_heads, head_dim = keys.shape
    _write_kv_kernel[(num_tokens,)](
        keys, values, slots, layer.keys, layer.values, layer.key_scales, layer.value_scales,
        NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim, TOKENS_PER_BLOCK=layer.tokens_per_block, BITS=layer.form.bits,
        NUM_SCALES=layer.form.num_scales, TILE_HEADS=next_power(num_kv_heads), TILE_PAIRS=next_power(head_dim // 2),
        num_warps=4, **launch_options(keys.device),
    )  # fmt: skip


_WRITE_KV: dict[type, Operation[..., None]] = {
    LayerKV: Operation(reference=write_kv_reference),
    PackedKV: Operation(reference=write_kv_reference, triton=(UpTo(float("inf"), write_kv_triton),)),
}


def write_kv(keys: Tensor, values: Tensor, layer: AnyKV, slots: Tensor) -> None:
    """Write keys and values [num_tokens, num_kv_heads, head_dim] into `layer` in place, each token at its own slot."""
    expected = (slots.shape[0], layer.num_kv_heads, layer.head_dim)
    check_shape("keys of write_kv", keys, expected)
    check_shape("values of write_kv", values, expected)
    if slots.shape[0]:
        form = _WRITE_KV[type(layer)].form_for(keys.device, dtype=keys.dtype)
        form(keys.contiguous(), values.contiguous(), layer, slots)
