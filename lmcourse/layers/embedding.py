"""Embedding: token id → features, a row of a table.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from lmcourse.layers.linear import empty_weight

__all__ = ["Embedding"]


class Embedding(nn.Module):
    """A table [vocab, hidden]; only the rows asked for are read, and multiplied by scale."""

    def __init__(self, vocab: int, hidden: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight, self.scale = empty_weight(vocab, hidden), scale

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids: int64 [num_tokens] → [num_tokens, hidden]."""
        features = embedding(token_ids, self.weight)
        return features if self.scale == 1.0 else features * self._rounded_scale()

    def _rounded_scale(self) -> float:
        """The scale as the model's dtype holds it, which is what such models are trained with."""
        return torch.tensor(self.scale, dtype=self.weight.dtype).item()

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} tokens -> {self.weight.shape[1]}, {self.weight.dtype}"
