"""Embedding: token id → features, a row of a table.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import embedding

from lmcourse.layers.linear import empty_weight

__all__ = ["Embedding"]


class Embedding(nn.Module):
    """A table [vocab, hidden]; only the rows asked for are read."""

    def __init__(self, vocab: int, hidden: int) -> None:
        super().__init__()
        self.weight = empty_weight(vocab, hidden)

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids: int64 [num_tokens] → [num_tokens, hidden]."""
        return embedding(token_ids, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} tokens -> {self.weight.shape[1]}, {self.weight.dtype}"
