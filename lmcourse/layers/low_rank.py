"""LowRank: what a matrix does differently for some of the tokens, as a product of two narrow ones.

    y = x · Wᵀ + b          every token
      + x · Aᵀ · Bᵀ         tokens of pictures alone (partial LoRA, arXiv 2401.16420 §3.2; LoRA, 2106.09685 §4.1)

The idea: a language model learned to read pictures without changing how it reads words. Words are most of what is
generated, and for them nothing is computed and nothing is read. A matrix that is several stacked ones has a pair (A, B)
for each of them: each B makes an equal share of the output's rows.

Contract: plain weights, 16 bits where W is packed to 4.

Lesson: 8 (what differs between families)
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from lmcourse.layers.linear import empty_weight

__all__ = ["LowRank"]


class _Factor(nn.Module):
    """One of the two matrices."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = empty_weight(out_features, in_features)


class LowRank(nn.Module):
    """The pairs that belong to one Linear."""

    def __init__(self, in_features: int, out_features: int, rank: int, *, pairs: int = 1) -> None:
        """pairs: how many matrices the Linear has stacked."""
        super().__init__()
        self.pairs = pairs
        self.reduce = _Factor(in_features, pairs * rank)  # rows [A of the first | A of the second …]
        self.expand = _Factor(rank, out_features)  # rows [B of the first | B of the second …]

    def forward(self, x: Tensor) -> Tensor:
        """x: [num_tokens, in_features] → what is added to the product, [num_tokens, out_features]."""
        narrow = rearrange(x @ self.reduce.weight.t(), "t (pair r) -> pair t r", pair=self.pairs)
        wide = rearrange(self.expand.weight, "(pair f) r -> pair r f", pair=self.pairs)
        return rearrange(torch.bmm(narrow, wide), "pair t f -> t (pair f)")

    def extra_repr(self) -> str:
        rows, in_features = self.reduce.weight.shape
        return f"{in_features} -> {rows // self.pairs} -> {self.expand.weight.shape[0]}, pairs={self.pairs}"
