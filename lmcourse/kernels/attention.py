"""Ragged paged attention: out[t] = softmax(scale · q[t] · keysᵀ) · values over the positions up to t's own.

Each token of the batch attends to its request's cached positions, which lie in KV blocks anywhere in the pool:

    block_tables[r] = [5, 2, 9]      pool   0 1 2 3 4 5 6 7 8 9
    request r       = 150 tokens            . . # . . # . . . #     tokens_per_block = 64: 5, 2 full, 22 slots of 9

Decodes (one new token each) run together: those whose contexts are about as long side by side, padded to the longest.
Where a Reach hides most of the past, block by block instead. A softmax is a quotient of two sums of exp(score - peak),
and sums with different peaks can be added once each is scaled to the highest (arXiv 2205.14135 §3.1): so every block
is attended to on its own, and a request's blocks are merged afterwards. The query heads that share a key/value head are
the rows of one small product:

    blocks of all requests   A0 A1 A2 B0 C0 C1 …     each: scores [queries_per_kv, tokens_per_block] → peak, sums
    merged per request       A: A0 + A1 + A2 at the highest of their peaks        B: B0        C: C0 + C1

Prefills run one request at a time, causal, offset by the positions that are cached already.

Traffic of a decode, InternLM2-1.8B: 4 KiB of keys and values per cached token and layer. This form also writes and
reads a copy, which a paged kernel saves. FLOPs per cached token:
4 · num_heads · head_dim.

A Reach bends scores by distance (ALiBi) or ends it (a window): reach.py.

Numerics: scores, softmax and sums in float32. Slots outside a request's context never reach its result, whatever
they hold.

Lesson: 3 (paging)
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from lmcourse.kernels.decode_attention import decode_attention
from lmcourse.kernels.dispatch import Operation, UpTo, check_shape
from lmcourse.kernels.operands import ALL_BEFORE, Reach
from lmcourse.kernels.packed_kv import AnyKV
from lmcourse.kernels.prefill_attention import prefill_attention
from lmcourse.kernels.ragged import Alike, RaggedBatch
from lmcourse.kernels.reach import attend_plainly, bend_scores, is_everything, unseen

__all__ = ["ragged_attention", "ragged_attention_batched", "ragged_attention_reference", "ragged_attention_triton"]

# Keys copied at a time: on a CPU few enough to stay in its cache, on a GPU enough to fill it.
_PIECE_BYTES = {"cpu": 2**20, "cuda": 2**27}
_SCORE_BYTES = 2**27
_SMALLEST_TILE = 16  # tokens of a block; the tensor cores' smallest inner dimension


def ragged_attention_reference(
    q: Tensor, layer: AnyKV, batch: RaggedBatch, scale: float, reach: Reach = ALL_BEFORE
) -> Tensor:
    """The formula, one request at a time, with every intermediate in float32."""
    out = torch.empty_like(q)
    for request in range(batch.num_requests):
        tokens = slice(batch.query_starts[request], batch.query_starts[request + 1])
        keys, values = _request_blocks(layer, batch, request)
        out[tokens] = attend_plainly(q[tokens], keys, values, scale, batch.positions[tokens], reach)
    return out


def ragged_attention_batched(
    q: Tensor, layer: AnyKV, batch: RaggedBatch, scale: float, reach: Reach = ALL_BEFORE
) -> Tensor:
    """Decodes together, prefills one by one."""
    out = torch.empty_like(q)
    together = batch.num_decodes
    if together and is_everything(reach, max(batch.context_lens[:together])):
        for alike in batch.alike:
            out[alike.rows] = _decode_alike(q[alike.rows], layer, alike, scale)
    elif together:
        columns = -(-max(batch.context_lens[:together]) // layer.tokens_per_block)
        tables = batch.block_tables[:together, :columns]
        out[:together] = _decode(q[:together], layer, tables, batch.positions[:together], scale, reach)
    for request in range(together, batch.num_requests):
        tokens = slice(batch.query_starts[request], batch.query_starts[request + 1])
        out[tokens] = _attend_one(q[tokens], layer, batch, request, scale, reach)
    return out


def _request_blocks(layer: AnyKV, batch: RaggedBatch, request: int) -> tuple[Tensor, Tensor]:
    """One request's keys and values, both [num_kv_heads, context, head_dim]."""
    context = batch.context_lens[request]
    blocks = batch.block_tables[request, : -(-context // layer.tokens_per_block)]
    keys, values = (x.transpose(0, 1).flatten(1, 2)[:, :context] for x in layer.read(blocks))
    return keys, values


def _attend_one(q: Tensor, layer: AnyKV, batch: RaggedBatch, request: int, scale: float, reach: Reach) -> Tensor:
    """One request's tokens: q [tokens, num_heads, head_dim]."""
    keys, values = (x.to(q.dtype) for x in _request_blocks(layer, batch, request))
    num_tokens, context = q.shape[0], keys.shape[1]
    everything = is_everything(reach, context)
    if everything and num_tokens in (1, context):
        return _fused(q, keys, values, scale, causal=num_tokens > 1)
    # Behind a cached prefix the mask is explicit, so queries go in tiles: their scores stay within _SCORE_BYTES.
    tile_tokens = max(1, _SCORE_BYTES // (4 * q.shape[1] * context))
    offset = context - num_tokens
    positions = torch.arange(context, device=q.device)
    tiles = []
    for start in range(0, num_tokens, tile_tokens):
        stop = min(start + tile_tokens, num_tokens)
        seen, rows = slice(0, offset + stop), positions[offset + start : offset + stop]
        if everything:
            mask = positions[seen] <= rows[:, None]
            tiles.append(_fused(q[start:stop], keys[:, seen], values[:, seen], scale, mask=mask))
        else:
            tiles.append(attend_plainly(q[start:stop], keys[:, seen], values[:, seen], scale, rows, reach))
    return torch.cat(tiles)


def _fused(
    q: Tensor, keys: Tensor, values: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """torch's attention for q [tokens, num_heads, head_dim] and keys, values [num_kv_heads, context, head_dim]."""
    queries = q.transpose(0, 1)[None]
    attended = scaled_dot_product_attention(
        queries, keys[None], values[None], attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True
    )
    return attended[0].transpose(0, 1)


def _decode_alike(q: Tensor, layer: AnyKV, alike: Alike, scale: float) -> Tensor:
    """One token per request, all of which see everything: q [requests, num_heads, head_dim]."""
    columns = -(-alike.longest // layer.tokens_per_block)
    keys, values = (x[:, : alike.longest].float() for x in layer.read_tables(alike.tables[:, :columns]))
    pairs = q.shape[0], layer.num_kv_heads  # a request and a head of its cache are one small product
    scores = torch.bmm((q.float() * scale).view(keys.shape[0], -1, q.shape[2]), keys.transpose(1, 2))
    if alike.padding is not None:
        beyond, (request, position) = alike.padding
        values.unflatten(0, pairs)[request, :, position] = 0  # a weight of 0 is not enough: 0 · NaN is NaN
        scores.unflatten(0, pairs).masked_fill_(beyond[:, None, None], float("-inf"))
    return torch.bmm(scores.softmax(dim=-1), values).view(q.shape).to(q.dtype)


def _decode(q: Tensor, layer: AnyKV, tables: Tensor, positions: Tensor, scale: float, reach: Reach) -> Tensor:
    """One token per request: q [requests, num_heads, head_dim], tables [requests, columns], positions [requests]."""
    tokens_per_block, device = layer.tokens_per_block, q.device
    firsts = torch.arange(tables.shape[1], device=device) * tokens_per_block
    past = positions[:, None] - firsts  # of each block's first token
    owner, column = (~unseen((past - tokens_per_block + 1).clamp(min=0), reach) & (past >= 0)).nonzero(as_tuple=True)
    distance = past[owner, column][:, None] - torch.arange(tokens_per_block, device=device)
    queries = rearrange(q.float() * scale, "r (k g) d -> r k g d", k=layer.num_kv_heads)
    sums, peaks = _attend_blocks(queries[owner], layer, tables[owner, column], distance, reach)

    cells = (*tables.shape, *queries.shape[1:3])  # one per request, column of its table, head
    peak_table = torch.full((*cells, 1), float("-inf"), device=device)
    peak_table[owner, column] = peaks
    sum_table = torch.zeros((*cells, sums.shape[-1]), device=device)
    sum_table[owner, column] = sums
    merged = ((peak_table - peak_table.amax(dim=1, keepdim=True)).exp_() * sum_table).sum(dim=1)
    return (merged[..., :-1] / merged[..., -1:]).flatten(1, 2).to(q.dtype)


def _attend_blocks(
    queries: Tensor, layer: AnyKV, blocks: Tensor, distance: Tensor, reach: Reach
) -> tuple[Tensor, Tensor]:
    """Per block and head: sums of exp(score - peak) · [values | 1], [..., head_dim + 1], and the peaks, [..., 1]."""
    block_bytes = 4 * layer.num_kv_heads * layer.tokens_per_block * layer.head_dim
    count = max(1, _PIECE_BYTES[queries.device.type] // block_bytes)
    sums, peaks = [], []
    for start in range(0, blocks.shape[0], count):
        piece = slice(start, start + count)
        keys, values = (x.float() for x in layer.read(blocks[piece]))
        stale, offsets = (distance[piece] < 0).nonzero(as_tuple=True)
        values[stale, :, offsets] = 0  # a weight of 0 is not enough: 0 · NaN is NaN
        scores = queries[piece] @ keys.transpose(2, 3)
        scores = bend_scores(scores[..., None, :], distance[piece, None], reach)[..., 0, :]
        peak = scores.amax(dim=-1, keepdim=True)
        weights = scores.sub_(peak).exp_()
        sums.append(torch.cat((weights @ values, weights.sum(dim=-1, keepdim=True)), dim=-1))
        peaks.append(peak)
    return torch.cat(sums), torch.cat(peaks)


def _without_cudnn(q: Tensor, layer: AnyKV, batch: RaggedBatch, scale: float, reach: Reach = ALL_BEFORE) -> Tensor:
    """cuDNN builds a plan for each context length it has not met: 80 ms a step of a growing request on an H100."""
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return ragged_attention_batched(q, layer, batch, scale, reach)


def ragged_attention_triton(
    q: Tensor, layer: AnyKV, batch: RaggedBatch, scale: float, reach: Reach = ALL_BEFORE
) -> Tensor:
    """Decodes in one kernel, prefills in another; odd block sizes, which are no tile, in torch."""
    tokens_per_block = layer.tokens_per_block
    if tokens_per_block & (tokens_per_block - 1) or tokens_per_block < _SMALLEST_TILE or not layer.keys.is_contiguous():
        return _without_cudnn(q, layer, batch, scale, reach)
    q, out, decodes = q.contiguous(), torch.empty_like(q), batch.num_decodes
    if decodes:
        tables, positions = batch.block_tables[:decodes], batch.positions[:decodes]
        decode_attention(q[:decodes], layer, (tables, positions), scale, out[:decodes], reach)
    if decodes < batch.num_requests:
        prefill_attention(q, layer, batch, scale, out, reach)
    return out


_RAGGED_ATTENTION = Operation(
    reference=ragged_attention_reference,
    by_device={"cpu": ragged_attention_batched, "cuda": _without_cudnn},
    triton=(UpTo(math.inf, ragged_attention_triton),),
)


def ragged_attention(q: Tensor, layer: AnyKV, batch: RaggedBatch, scale: float, reach: Reach = ALL_BEFORE) -> Tensor:
    """q: [num_tokens, num_heads, head_dim] → the same shape; this step's keys and values must be written already."""
    check_shape("q of ragged_attention", q, (batch.query_starts[-1], q.shape[1], layer.head_dim))
    if q.shape[1] % layer.num_kv_heads:
        raise ValueError(
            "query heads do not divide among the key/value heads\n"
            f"  expected: a multiple of {layer.num_kv_heads}\n  got: {q.shape[1]}"
        )
    return _RAGGED_ATTENTION.form_for(q.device, dtype=q.dtype)(q, layer, batch, scale, reach)
