"""Rotary position embedding: each pair of features turns by position · frequency (RoFormer, arXiv 2104.09864 §3.4).

A head's features are split in halves, and feature i of the first half pairs with feature i of the second:

    features    0  1  2 … d/2-1 | d/2 … d-1           (a, b) = (x[i], x[i + d/2])
    turns       (a, b) → (a·cos − b·sin, b·cos + a·sin)

Queries and keys turned this way have a product that depends on the distance between their positions alone, so a cached
key never has to be touched again.

Traffic, one token of InternLM2-1.8B (16 + 8 heads of 128, 2 bytes): read q, k and 64 float32 angles' cos and sin,
write q and k: 12.5 KiB. No arithmetic to speak of.

Numerics: angles, cos and sin are float32 in every model dtype (a half float cannot even hold position 2049 exactly).

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.dispatch import Operation, check_shape

__all__ = ["rotate", "rotate_heads", "rotate_reference"]


def rotate_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [num_tokens, heads, head_dim]; cos and sin: [num_tokens, 1, head_dim / 2], one angle for all heads."""
    first, second = x.float().chunk(2, dim=-1)  # each [num_tokens, heads, head_dim / 2]
    turned = (first * cos).addcmul_(second, sin, value=-1), (second * cos).addcmul_(first, sin)
    return torch.cat(turned, dim=-1).to(x.dtype)


def rotate_reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The formula, in float32; one angle serves all heads of a token."""
    cos, sin = cos[:, None, :], sin[:, None, :]
    return rotate_heads(q, cos, sin), rotate_heads(k, cos, sin)


_ROTATE = Operation(reference=rotate_reference)


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """q: [num_tokens, num_heads, head_dim], k: the same with num_kv_heads; cos and sin: [num_tokens, head_dim / 2]."""
    num_tokens, _, head_dim = q.shape
    check_shape("k of rotate", k, (num_tokens, k.shape[1], head_dim))
    check_shape("cos of rotate", cos, (num_tokens, head_dim // 2))
    check_shape("sin of rotate", sin, (num_tokens, head_dim // 2))
    return _ROTATE.form_for(q.device)(q, k, cos, sin)
