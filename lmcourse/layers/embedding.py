"""Embedding: token id → features, a row of a table.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from lmcourse.layers.linear import empty_weight
from lmcourse.layers.parallel import ALONE, Ranks

__all__ = ["Embedding"]


class Embedding(nn.Module):
    """A table [vocab, hidden], or this rank's rows of it; only those asked for are read, and multiplied by scale."""

    def __init__(self, vocab: int, hidden: int, scale: float = 1.0, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.weight, self.scale, self.ranks = empty_weight(-(-vocab // ranks.size), hidden), scale, ranks

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids: int64 [num_tokens] → [num_tokens, hidden]."""
        features = embedding(token_ids, self.weight) if self.ranks.size == 1 else self._gather(token_ids)
        return features if self.scale == 1.0 else features * self._rounded_scale()

    def _gather(self, token_ids: Tensor) -> Tensor:
        """Every token is one rank's; the others add zeros."""
        rows = token_ids - self.ranks.rank * self.weight.shape[0]
        is_here = (rows >= 0) & (rows < self.weight.shape[0])
        found = embedding(rows.where(is_here, 0), self.weight) * is_here[:, None]
        return self.ranks.add_up(found[None])[0]

    def _rounded_scale(self) -> float:
        """The scale as the model's dtype holds it, which is what such models are trained with."""
        return torch.tensor(self.scale, dtype=self.weight.dtype).item()

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} tokens -> {self.weight.shape[1]}, {self.weight.dtype}"
