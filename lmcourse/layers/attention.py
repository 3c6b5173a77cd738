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

from torch import nn

from lmcourse.kernels import AnyKV, Norm, RaggedBatch, Rotation, Stream, norm_qkv, ragged_attention
from lmcourse.layers.linear import Linear
from lmcourse.spec import ModelSpec

__all__ = ["Attention"]


class Attention(nn.Module):
    """Grouped-query attention over a paged cache: three launches where few tokens make one launch of each line."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        heads = spec.num_heads + 2 * spec.num_kv_heads
        self.scale = spec.head_dim**-0.5
        self.qkv = Linear(spec.hidden, heads * spec.head_dim, bias=spec.qkv_bias)
        self.output = Linear(spec.num_heads * spec.head_dim, spec.hidden, bias=spec.output_bias)

    def forward(self, stream: Stream, norm: Norm, rotation: Rotation, batch: RaggedBatch, kv: AnyKV) -> Stream:
        """The stream behind the layer before → the stream that the MLP starts from; writes keys and values into kv."""
        q, residual = norm_qkv(stream, norm, self.qkv.matrix, rotation, kv, batch.slots)
        attended = ragged_attention(q, kv, batch, self.scale)
        return Stream(residual, self.output(attended.flatten(1)))
