"""Resampler: learned queries that look once at a picture's many features and take its place (arXiv 2308.12966 §2.1).

    queries [n, hidden] ─ norm, + positions ──────────────▶ queries ─┐
    features [patches, seen] ─ map, norm ─┬─ + positions ─▶ keys ────┼─▶ attention ─▶ [n, hidden]
                                          └───────────────▶ values ──┘

The idea: a picture of any resolution costs n tokens. Queries and keys are told where they are, values are not: both
grids lie over the same picture, so a query can look for what is near its own place.

Lesson: 6 (from features to tokens), 8 (what differs between families)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as fn

__all__ = ["Resampler", "ResamplerSpec"]


@dataclass(frozen=True)
class ResamplerSpec:
    """The shape; the defaults are Qwen-VL's."""

    hidden: int = 4096
    num_heads: int = 32
    num_queries: int = 256
    seen: int = 1664  # features of what is looked at
    patches: int = 1024
    norm_eps: float = 1e-6


class Resampler(nn.Module):
    """Features of pictures in, as many tokens as there are queries out."""

    def __init__(self, spec: ResamplerSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.queries = nn.Parameter(torch.empty(spec.num_queries, spec.hidden))
        self.query_positions = nn.Parameter(torch.empty(spec.num_queries, spec.hidden))
        self.key_positions = nn.Parameter(torch.empty(spec.patches, spec.hidden))
        self.reduce = nn.Linear(spec.seen, spec.hidden, bias=False) if spec.seen != spec.hidden else None
        self.query_norm = nn.LayerNorm(spec.hidden, spec.norm_eps)
        self.seen_norm = nn.LayerNorm(spec.hidden, spec.norm_eps)
        self.qkv = nn.Linear(spec.hidden, 3 * spec.hidden)
        self.output = nn.Linear(spec.hidden, spec.hidden)

    def forward(self, seen: Tensor) -> Tensor:
        """seen: [pictures, patches, seen] → [pictures, num_queries, hidden]."""
        values = self.seen_norm(seen if self.reduce is None else self.reduce(seen))
        queries = self.query_norm(self.queries) + self.query_positions
        inputs = queries[None], values + self.key_positions, values
        maps = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        q, k, v = (
            rearrange(fn.linear(x, weight, bias), "n t (h d) -> n h t d", h=self.num_heads)
            for x, (weight, bias) in zip(inputs, maps, strict=True)
        )
        taken = fn.scaled_dot_product_attention(q.expand(len(seen), -1, -1, -1), k, v)
        return self.output(rearrange(taken, "n h t d -> n t (h d)"))  # type: ignore[no-any-return]
