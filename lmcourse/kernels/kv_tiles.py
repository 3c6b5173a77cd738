"""What decode and prefill attention share: tiles of cached keys and values, and one step of a running softmax.

One KV block of one head is one tile, and one contiguous run of memory. A tile of a quantised cache (packed_kv.py) is
loaded as 16-bit words and becomes PARTS tiles, each a share of the features; queries are cut the same way, so a score
is a sum of PARTS products and the output has PARTS pieces:

    PARTS = 1   as computed      scores = q · keysᵀ                               out = weights · values
    PARTS = 2   int8             scores = (q₀ · n₀ᵀ + q₁ · n₁ᵀ) · key scales      outₚ = (weights · value scales) · nₚ
    PARTS = 4   int4             … + Σ q · key offsets                            … + Σ weights · value offsets

The softmax runs: sums are relative to 2^peak, and rescaled when a tile brings a higher one (arXiv 2205.14135 §3.1).

Numerics: weights · value scales are multiplied by 64 before they become float16, which has no small numbers to spare.

Lesson: 3 (the paged-attention kernel, line by line)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lmcourse.kernels import lang
from lmcourse.kernels.lang import jit, next_power, tl, triton
from lmcourse.kernels.packed_kv import AnyKV, PackedKV, unpack_words

__all__ = [
    "attend",
    "attend_block",
    "begin_softmax",
    "fit_stages",
    "in_window",
    "load_block",
    "load_queries",
    "load_scales",
    "load_slopes",
    "load_words",
    "output_features",
    "store_outputs",
    "tile_constants",
    "tile_descriptors",
    "tile_pointers",
]


@jit
def load_words(pool_ptr, block, i_kv, rows, m_rows, w, NUM_KV_HEADS: tl.constexpr, W: tl.constexpr):
    """pool[block, i_kv, rows, w], 0 where m_rows is not or beyond W; no mask at all for m_rows None."""
    run = (tl.cast(block, tl.int64) * NUM_KV_HEADS + i_kv) * (rows.shape[0] * W)
    pointers = pool_ptr + run + rows[:, None] * W + w[None, :]
    padded: tl.constexpr = w.shape[0] != W
    if m_rows is not None:
        b_words = tl.load(pointers, mask=m_rows[:, None] & (w < W)[None, :], other=0)
    elif padded:
        b_words = tl.load(pointers, mask=(w < W)[None, :], other=0)
    else:
        b_words = tl.load(pointers)
    return b_words


@jit
def load_scales(scales_ptr, block, i_kv, rows, m_rows, NUM_KV_HEADS: tl.constexpr, NUM_SCALES: tl.constexpr):
    """Scale and offset of each row, as many as the format has, 0 where m_rows is not."""
    scales = ()
    for number in tl.static_range(NUM_SCALES):
        run = (tl.cast(block, tl.int64) * NUM_KV_HEADS + i_kv) * NUM_SCALES + number
        pointers = scales_ptr + run * rows.shape[0] + rows
        if m_rows is None:
            scales = scales + (tl.load(pointers).to(tl.float32),)
        else:
            scales = scales + (tl.load(pointers, mask=m_rows, other=0.0).to(tl.float32),)
    return scales


@jit
def load_block(pools, block, i_kv, rows, m_rows, w, NUM_KV_HEADS: tl.constexpr, W: tl.constexpr, NUM: tl.constexpr):
    """One head of one block: (key words, value words, key scales, value scales), 0 where m_rows is not.

    A whole block comes through tensor descriptors where the pools have them.
    """
    if pools[4] is None or m_rows is not None:
        b_keys = load_words(pools[0], block, i_kv, rows, m_rows, w, NUM_KV_HEADS, W)
        b_values = load_words(pools[1], block, i_kv, rows, m_rows, w, NUM_KV_HEADS, W)
    else:
        first = (block * NUM_KV_HEADS + i_kv) * rows.shape[0]
        b_keys, b_values = pools[4].load([first, 0]), pools[5].load([first, 0])
    key_scales = load_scales(pools[2], block, i_kv, rows, m_rows, NUM_KV_HEADS, NUM)
    value_scales = load_scales(pools[3], block, i_kv, rows, m_rows, NUM_KV_HEADS, NUM)
    return b_keys, b_values, key_scales, value_scales


@jit
def output_features(part: tl.constexpr, w, HEAD_DIM: tl.constexpr, PARTS: tl.constexpr):
    """The feature of word w in each part; the pieces of an output go there, too."""
    return w if PARTS == 1 else w * (PARTS // 2) + part // 2 + part % 2 * (HEAD_DIM // 2)


@jit
def load_queries(row_pointers, m_rows, w, HEAD_DIM: tl.constexpr, PARTS: tl.constexpr):
    """q[rows, :] in PARTS tiles [rows, words], 0 where m_rows is not or beyond the words; and its sum over features."""
    m_q = m_rows[:, None] & (w < HEAD_DIM // PARTS)[None, :]
    parts = ()
    total = tl.zeros((row_pointers.shape[0],), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        features = output_features(part, w, HEAD_DIM, PARTS)
        b_q = tl.load(row_pointers[:, None] + features[None, :], mask=m_q, other=0.0)
        parts = parts + (b_q,)
        if PARTS > 1:
            total += tl.sum(b_q.to(tl.float32), axis=1)
    return parts, total


@jit
def _bend(scores, m_scores, slopes, distance):
    """Scores less what distance costs them, -inf where m_scores is not."""
    if slopes is not None:
        scores -= slopes[:, None] * distance.to(tl.float32)
    if m_scores is not None:
        scores = tl.where(m_scores, scores, float("-inf"))
    return scores


@jit
def attend(q, q_total, tile, m_scores, running, scale_log2e, slopes=None, distance=None):
    """One more tile (of `load_block`) in a running softmax (peak, total, shift, sums).

    slopes [queries]: a score, not yet scaled, loses slope · distance [queries, keys]; None: nothing.
    """
    b_keys, b_values, key_scales, value_scales = tile
    peak, total, shift, sums = running
    PARTS: tl.constexpr = len(q)
    dtype: tl.constexpr = q[0].dtype
    keys, values = unpack_words(b_keys, PARTS, dtype), unpack_words(b_values, PARTS, dtype)
    scores = tl.dot(q[0], tl.trans(keys[0]), input_precision="ieee")
    for part in tl.static_range(1, PARTS):
        scores = tl.dot(q[part], tl.trans(keys[part]), scores, input_precision="ieee")
    if len(key_scales) > 0:
        scores = scores * key_scales[0][None, :]
    if len(key_scales) > 1:
        scores += q_total[:, None] * key_scales[1][None, :]
    scores = _bend(scores, m_scores, slopes, distance)
    higher = tl.maximum(peak, tl.max(scores, axis=1) * scale_log2e)
    weights = tl.math.exp2(scores * scale_log2e - higher[:, None])
    rescale = tl.math.exp2(peak - higher)
    total = total * rescale + tl.sum(weights, axis=1)
    if len(value_scales) > 1:
        shift = shift * rescale + tl.sum(weights * (value_scales[1] * 64)[None, :], axis=1)
    if len(value_scales) > 0:
        weights = weights * (value_scales[0] * 64)[None, :]
    b_weights = weights.to(dtype)
    added = ()
    for part in tl.static_range(PARTS):
        added = added + (tl.dot(b_weights, values[part], sums[part] * rescale[:, None], input_precision="ieee"),)
    return higher, total, shift, added


@jit
def attend_block(
    q, q_total, positions, slopes, table, index, pools, i_kv, rows, w, running, scale_log2e, newest,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, W: tl.constexpr, NUM_SCALES: tl.constexpr,
):  # fmt: skip
    """`attend` to block `index` of a table. newest: the last position that is written, None if the block is full;
    CAUSAL: some of it is in some query's future."""
    block = tl.load(table + index)
    at = index * rows.shape[0] + rows
    m_rows = None if newest is None else at <= newest
    tile = load_block(pools, block, i_kv, rows, m_rows, w, NUM_KV_HEADS, W, NUM_SCALES)
    distance = positions[:, None] - at[None, :]
    if CAUSAL:
        m_scores = in_window(distance, at[None, :] <= positions[:, None], WINDOW)
    else:
        m_scores = in_window(distance, None, WINDOW)
    return attend(q, q_total, tile, m_scores, running, scale_log2e, slopes, distance)


@jit
def load_slopes(slopes_ptr, heads, m_heads, scale_log2e):
    """Of these heads, for scores that are not yet scaled; None where there are none."""
    slopes = None
    if slopes_ptr is not None:
        slopes = tl.load(slopes_ptr + heads, mask=m_heads, other=0.0) * (1.4426950408889634 / scale_log2e)
    return slopes


@jit
def in_window(distance, m_seen, WINDOW: tl.constexpr):
    """m_seen (None: all), and within a window of so many tokens where there is one."""
    if WINDOW == 0:
        m_window = m_seen
    elif m_seen is None:
        m_window = distance < WINDOW
    else:
        m_window = m_seen & (distance < WINDOW)
    return m_window


@jit
def begin_softmax(TILE_M: tl.constexpr, TILE_W: tl.constexpr, PARTS: tl.constexpr):
    """(peak, total, shift, sums) of TILE_M queries that have seen nothing.

    The peak is below any score, but finite: a query from which a window hides its first tiles, whose scores are -inf
    there, gives them no weight, and -inf is never taken from -inf.
    """
    nothing = tl.zeros((TILE_M,), dtype=tl.float32)
    sums = ()
    for _ in tl.static_range(PARTS):
        sums = sums + (tl.zeros((TILE_M, TILE_W), dtype=tl.float32),)
    return nothing - 1.0e20, nothing, nothing, sums


@jit
def store_outputs(row_pointers, m_rows, w, sums, shift, totals, HEAD_DIM: tl.constexpr, NUM_SCALES: tl.constexpr):
    """(sums + shift) / totals, each piece at its features, less the factor of 64 that value scales carry."""
    PARTS: tl.constexpr = len(sums)
    m_out = m_rows[:, None] & (w < HEAD_DIM // PARTS)[None, :]
    for part in tl.static_range(PARTS):
        b_out = sums[part]
        if NUM_SCALES > 1:
            b_out += shift[:, None]
        if NUM_SCALES > 0:
            b_out *= 1.0 / 64
        features = output_features(part, w, HEAD_DIM, PARTS)
        b_out = (b_out / totals[:, None]).to(row_pointers.dtype.element_ty)
        tl.store(row_pointers[:, None] + features[None, :], b_out, mask=m_out)


def tile_pointers(kv: AnyKV) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Keys, values and their scales as the kernels take them."""
    if isinstance(kv, PackedKV):
        return *kv.words(), kv.key_scales, kv.value_scales
    return kv.keys, kv.values, None, None


def tile_descriptors(kv: AnyKV) -> tuple[Any, Any]:
    """Tensor descriptors of keys and values for the copy engine of sm_90, a block of one head at a time, or Nones."""
    keys, values, *_ = tile_pointers(kv)
    words = keys.shape[3]
    if triton is None or lang.capability(keys.device) < (9, 0) or words & (words - 1) or words * 2 % 16:
        return None, None
    from triton.tools.tensor_descriptor import TensorDescriptor

    tile = [kv.tokens_per_block, words]
    described = [TensorDescriptor(pool, [pool.numel() // words, words], [words, 1], tile) for pool in (keys, values)]
    return described[0], described[1]


def fit_stages(kv: AnyKV, stages: int, q_bytes: int) -> int:
    """As many of the stages as shared memory has room for, beside a tile of queries: heads of 256 features need it."""
    keys, *_ = tile_pointers(kv)
    tile_bytes = 2 * kv.tokens_per_block * keys.shape[3] * keys.element_size()  # of keys and of values
    room = lang.shared_kib(keys.device) * 1024 - q_bytes - 2**14
    return min(stages, 1 + max(1, room // tile_bytes))


def tile_constants(kv: AnyKV) -> dict[str, Any]:
    """What a kernel must know of the cache when it is compiled."""
    parts, num_scales = (kv.form.parts, kv.form.num_scales) if isinstance(kv, PackedKV) else (1, 0)
    return {
        "NUM_KV_HEADS": kv.num_kv_heads, "HEAD_DIM": kv.head_dim, "TOKENS_PER_BLOCK": kv.tokens_per_block,
        "PARTS": parts, "NUM_SCALES": num_scales, "TILE_W": max(16, next_power(kv.head_dim // parts)),
    }  # fmt: skip
