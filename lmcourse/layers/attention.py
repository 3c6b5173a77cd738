"""Attention: one matrix gives q, k and v; k and v go to the cache; each token attends to its request's past.

    residual stream [num_tokens, hidden]
      │ norm; qkv: one matrix, rows [ Q of all heads | K of all kv heads | V of all kv heads ]
      ▼
    q [num_tokens, num_heads, head_dim]    k, v [num_tokens, num_kv_heads, head_dim]
      │ rotate q and k          │ write k and v into the layer's KV blocks
      ▼                         ▼
    attend through the block tables → output matrix → parts, to be added to the stream

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from lmcourse.kernels import (
    AnyKV,
    AnyNorm,
    RaggedBatch,
    Reach,
    Rotation,
    Stream,
    add_norm,
    norm_qkv,
    project,
    ragged_attention,
    rotate_write,
    sum_parts,
)
from lmcourse.layers.linear import Linear
from lmcourse.layers.parallel import ALONE, Ranks
from lmcourse.spec import ModelSpec

__all__ = ["Attention"]


class Attention(nn.Module):
    """Grouped-query attention over a paged cache: three launches where few tokens make one launch of each line."""

    def __init__(self, spec: ModelSpec, ranks: Ranks = ALONE) -> None:
        super().__init__()
        heads = spec.num_heads + 2 * spec.num_kv_heads
        self.scale, self.clip = spec.head_dim**-0.5, spec.clip_qkv
        self.slopes, self.window = spec.alibi_slopes, spec.window
        self.qkv = Linear(spec.hidden, heads * spec.head_dim, bias=spec.qkv_bias)
        self.output = Linear(spec.num_heads * spec.head_dim, spec.hidden, bias=spec.output_bias, ranks=ranks)

    def forward(
        self,
        stream: Stream,
        norm: AnyNorm,
        rotation: Rotation,
        batch: RaggedBatch,
        kv: AnyKV,
        rows: Tensor | None = None,
    ) -> Stream:
        """The stream behind the layer before → the stream that the MLP starts from; writes keys and values into kv.

        rows: the tokens that go on from here; None: all.
        """
        q, residual = self.turned_queries(stream, norm, rotation, batch, kv)
        mixed = self.mix(q, batch, kv)
        if rows is not None:
            mixed, residual = mixed[rows], residual[rows]
        return Stream(residual, self.output(mixed))

    def turned_queries(
        self, stream: Stream, norm: AnyNorm, rotation: Rotation, batch: RaggedBatch, kv: AnyKV
    ) -> tuple[Tensor, Tensor]:
        """(q, residual); keys and values are in kv by then."""
        if self.clip is None:
            q, residual = norm_qkv(stream, norm, self.qkv.matrix, rotation, kv, batch.slots)
            return _scaled(q, rotation), residual
        normed, residual = add_norm(stream, norm)
        qkv = sum_parts(project(normed, self.qkv.matrix), normed.dtype).clamp(-self.clip, self.clip)
        return self.turn(qkv, rotation, batch, kv), residual

    def turn(self, qkv: Tensor, rotation: Rotation, batch: RaggedBatch, kv: AnyKV) -> Tensor:
        """The queries of qkv [num_tokens, features], turned; its keys and values are in kv by then."""
        return _scaled(rotate_write(qkv[None], rotation, kv, batch.slots, qkv.dtype), rotation)

    def mix(self, q: Tensor, batch: RaggedBatch, kv: AnyKV) -> Tensor:
        """What each token takes from its request's past: [num_tokens, num_heads · head_dim]."""
        return ragged_attention(q, kv, batch, self.scale, self.reach(q.device)).flatten(1)

    def reach(self, device: torch.device) -> Reach:
        """How scores depend on distance."""
        return Reach(_slopes_on(device, self.slopes) if self.slopes else None, self.window)


def _scaled(q: Tensor, rotation: Rotation) -> Tensor:
    return q if rotation.query_scale is None else (q * rotation.query_scale[:, None, None]).to(q.dtype)


@functools.cache
def _slopes_on(device: torch.device, slopes: tuple[float, ...]) -> Tensor:
    """One tensor for all layers; made before a step is recorded, since recording copies nothing from the host."""
    return torch.tensor(slopes, dtype=torch.float32, device=device)
