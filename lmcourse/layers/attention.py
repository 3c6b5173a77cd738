"""Attention: one matrix gives q, k and v; k and v go to the cache; each token attends to its request's past.

    x [num_tokens, hidden]
      │ qkv: one matrix, rows [ Q of all heads | K of all kv heads | V of all kv heads ]
      ▼
    q [num_tokens, num_heads, head_dim]    k, v [num_tokens, num_kv_heads, head_dim]
      │ rotate q and k          │ write k and v into the layer's KV blocks
      ▼                         ▼
    attend through the block tables → output matrix → [num_tokens, hidden]

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from torch import Tensor, nn

from lmcourse.kernels import LayerKV, RaggedBatch, ragged_attention, rotate, write_kv
from lmcourse.layers.linear import Linear
from lmcourse.layers.rotary import Rotation
from lmcourse.spec import ModelSpec

__all__ = ["Attention"]


class Attention(nn.Module):
    """Grouped-query attention over a paged cache."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.head_counts = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
        self.head_dim = spec.head_dim
        self.scale = spec.head_dim**-0.5
        self.qkv = Linear(spec.hidden, sum(self.head_counts) * spec.head_dim, bias=spec.qkv_bias)
        self.output = Linear(spec.num_heads * spec.head_dim, spec.hidden, bias=spec.output_bias)

    def forward(self, x: Tensor, rotation: Rotation, batch: RaggedBatch, kv: LayerKV) -> Tensor:
        """x: [num_tokens, hidden] → the same shape; writes this step's keys and values into kv."""
        heads = self.qkv(x).view(x.shape[0], -1, self.head_dim)
        q, k, v = heads.split(self.head_counts, dim=1)
        q, k = rotate(q, k, rotation.cos, rotation.sin)
        write_kv(k, v, kv, batch.slots)
        out: Tensor = self.output(ragged_attention(q, kv, batch, self.scale).flatten(1))
        return out
