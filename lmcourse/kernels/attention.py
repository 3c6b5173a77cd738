"""Ragged paged attention: out[t] = softmax(scale · q[t] · keysᵀ) · values over the positions up to t's own.

Each token of the batch attends to its request's cached positions, which lie in KV blocks anywhere in the pool:

    block_tables[r] = [5, 2, 9]      pool   0 1 2 3 4 5 6 7 8 9
    request r       = 150 tokens            . . # . . # . . . #     tokens_per_block = 64: 5, 2 full, 22 slots of 9

Decodes (one new token each) run together: their blocks are gathered side by side and one call attends for all of them.
The query heads that share a key/value head are that call's query rows, so nothing is expanded:

    q        [num_decodes, num_kv_heads, queries_per_kv, head_dim]
    keys     [num_decodes, num_kv_heads, longest context, head_dim]      ← copy of the blocks, masked past each context

Decodes whose contexts differ more than twofold go to separate calls: padding never exceeds the useful bytes. Prefills
run one request at a time, causal, offset by the positions that are cached already.

Traffic of a decode, InternLM2-1.8B: 4 KiB of keys and values per cached token and layer; the gather writes and reads
them once more, which a paged kernel saves. FLOPs: 4 · num_heads · head_dim per cached token.

Numerics: softmax in float32. Slots that a request does not own are never read into a result, whatever they hold.

Lesson: 3 (paging)
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lmcourse.kernels.dispatch import Operation, check_shape
from lmcourse.kernels.ragged import LayerKV, RaggedBatch

__all__ = ["ragged_attention", "ragged_attention_batched", "ragged_attention_reference"]


def ragged_attention_reference(q: Tensor, layer: LayerKV, batch: RaggedBatch, scale: float) -> Tensor:
    """The formula, one request at a time, with every intermediate in float32."""
    out = torch.empty_like(q)
    for request, context in enumerate(batch.context_lens):
        tokens = slice(batch.query_starts[request], batch.query_starts[request + 1])
        keys = _request_blocks(layer.keys, batch, request).float()  # [num_kv_heads, context, head_dim]
        values = _request_blocks(layer.values, batch, request).float()
        queries = rearrange(q[tokens].float(), "t (k g) d -> t k g d", k=keys.shape[0])
        scores = scale * torch.einsum("tkgd,kcd->kgtc", queries, keys)
        future = torch.arange(context, device=q.device) > batch.positions[tokens, None]
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        out[tokens] = torch.einsum("kgtc,kcd->tkgd", weights, values).flatten(1, 2).to(q.dtype)
    return out


def ragged_attention_batched(q: Tensor, layer: LayerKV, batch: RaggedBatch, scale: float) -> Tensor:
    """Decodes together, prefills one by one, through torch's fused attention."""
    out = torch.empty_like(q)
    for num_blocks, requests in _groups_of_like_length(batch, layer.keys.shape[2]):
        rows = torch.tensor(requests, device=q.device)
        out[rows] = _decode(q[rows], layer, batch.block_tables[rows, :num_blocks], batch.positions[rows], scale)
    for request in range(batch.num_decodes, batch.num_requests):
        tokens = slice(batch.query_starts[request], batch.query_starts[request + 1])
        out[tokens] = _prefill(q[tokens], layer, batch, request, scale)
    return out


def _request_blocks(pool: Tensor, batch: RaggedBatch, request: int) -> Tensor:
    """One request's keys or values: [num_kv_heads, context, head_dim]."""
    context = batch.context_lens[request]
    blocks = batch.block_tables[request, : -(-context // pool.shape[2])]
    return pool.index_select(0, blocks).transpose(0, 1).flatten(1, 2)[:, :context]


def _groups_of_like_length(batch: RaggedBatch, tokens_per_block: int) -> list[tuple[int, list[int]]]:
    """Decodes in groups, (most blocks of a member, members); within a group blocks differ at most twofold."""
    num_blocks = [-(-context // tokens_per_block) for context in batch.context_lens[: batch.num_decodes]]
    groups: list[tuple[int, list[int]]] = []
    for request in sorted(range(batch.num_decodes), key=num_blocks.__getitem__, reverse=True):
        if groups and groups[-1][0] <= 2 * num_blocks[request]:
            groups[-1][1].append(request)
        else:
            groups.append((num_blocks[request], [request]))
    return groups


def _decode(q: Tensor, layer: LayerKV, tables: Tensor, positions: Tensor, scale: float) -> Tensor:
    """One token per request: q [requests, num_heads, head_dim], tables [requests, blocks], positions [requests]."""
    num_kv_heads, tokens_per_block = layer.keys.shape[1:3]
    num_requests, num_heads, head_dim = q.shape
    longest = tables.shape[1] * tokens_per_block
    beyond = torch.arange(longest, device=q.device) > positions[:, None]  # [requests, longest]
    keys, values = (_gather(pool, tables, beyond) for pool in layer)
    queries = q.view(num_requests, num_kv_heads, num_heads // num_kv_heads, head_dim)
    attended = scaled_dot_product_attention(queries, keys, values, attn_mask=~beyond[:, None, None], scale=scale)
    return attended.reshape(num_requests, num_heads, head_dim)


def _gather(pool: Tensor, tables: Tensor, beyond: Tensor) -> Tensor:
    """Copy the tables' blocks side by side: [requests, num_kv_heads, longest, head_dim], zero past each context."""
    num_blocks, num_kv_heads, tokens_per_block, head_dim = pool.shape
    heads = torch.arange(num_kv_heads, device=pool.device)
    tiles = (tables[:, None, :] * num_kv_heads + heads[None, :, None]).flatten()  # of one head of one block each
    copy = pool.view(num_blocks * num_kv_heads, tokens_per_block, head_dim).index_select(0, tiles)
    stale = beyond[:, None].expand(-1, num_kv_heads, -1).flatten().nonzero().squeeze(1)
    copy.view(-1, head_dim).index_fill_(0, stale, 0)  # masked scores are not enough: 0 · NaN is NaN
    return copy.view(tables.shape[0], num_kv_heads, -1, head_dim)


def _prefill(q: Tensor, layer: LayerKV, batch: RaggedBatch, request: int, scale: float) -> Tensor:
    """Several tokens of one request: q [tokens, num_heads, head_dim]."""
    keys, values = (_request_blocks(pool, batch, request)[None] for pool in layer)
    queries = q.transpose(0, 1)[None]  # [1, num_heads, tokens, head_dim]
    start = batch.query_starts[request]
    mask = None
    if q.shape[0] < keys.shape[2]:
        positions = batch.positions[start : start + q.shape[0], None]
        mask = torch.arange(keys.shape[2], device=q.device) <= positions
    attended = scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return attended[0].transpose(0, 1)


_RAGGED_ATTENTION = Operation(
    reference=ragged_attention_reference,
    by_device={"cpu": ragged_attention_batched, "cuda": ragged_attention_batched},
)


def ragged_attention(q: Tensor, layer: LayerKV, batch: RaggedBatch, scale: float) -> Tensor:
    """q: [num_tokens, num_heads, head_dim] → the same shape; this step's keys and values must be written already."""
    check_shape("q of ragged_attention", q, (batch.query_starts[-1], q.shape[1], layer.keys.shape[3]))
    if q.shape[1] % layer.keys.shape[1]:
        raise ValueError(
            "query heads do not divide among the key/value heads\n"
            f"  expected: a multiple of {layer.keys.shape[1]}\n  got: {q.shape[1]}"
        )
    return _RAGGED_ATTENTION.form_for(q.device)(q, layer, batch, scale)
