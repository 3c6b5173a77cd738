"""Random inputs for single kernels: tensors, a layer's KV cache, and the layout of a step over shuffled blocks.

Never zeros: they hide what was not written, and a product of them runs faster than one of real data.

Lesson: 3 (what a step is made of)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from lmcourse.kernels import LayerKV, RaggedBatch
from lmcourse.spec import ModelSpec

__all__ = ["Inputs"]


class Inputs:
    """Makes them on one device, in one dtype."""

    def __init__(self, device: torch.device, dtype: torch.dtype, tokens_per_block: int = 64) -> None:
        self.device, self.dtype, self.tokens_per_block = device, dtype, tokens_per_block

    def tensor(self, *shape: int, dtype: torch.dtype | None = None, scale: float = 1.0) -> Tensor:
        """Normal values."""
        return (torch.randn(shape, device=self.device) * scale).to(dtype or self.dtype)

    def kv(self, num_blocks: int, spec: ModelSpec, num_layers: int = 1) -> tuple[LayerKV, ...]:
        """A cache of so many layers, every slot filled."""
        shape = (num_layers, 2, num_blocks, spec.num_kv_heads, self.tokens_per_block, spec.head_dim)
        pool = torch.empty(shape, device=self.device, dtype=self.dtype)
        for layer in pool:
            layer.normal_()
        return tuple(LayerKV(layer[0], layer[1]) for layer in pool)

    def batch(self, contexts: Sequence[int], new: int = 1) -> tuple[RaggedBatch, int]:
        """Requests with so many tokens cached once this step's `new` are written; and how many blocks they have."""
        size = self.tokens_per_block
        counts = [-(-context // size) for context in contexts]
        free: list[int] = torch.randperm(sum(counts)).tolist()
        tables = torch.zeros(len(contexts), max(counts), dtype=torch.int32)
        positions: list[int] = []
        slots: list[int] = []
        for row, (context, count) in enumerate(zip(contexts, counts, strict=True)):
            blocks = [free.pop() for _ in range(count)]
            tables[row, :count] = torch.tensor(blocks, dtype=torch.int32)
            places = range(context - new, context)
            positions += places
            slots += [blocks[p // size] * size + p % size for p in places]
        on_device = functools.partial(torch.tensor, device=self.device)
        batch = RaggedBatch(
            positions=on_device(positions),
            slots=on_device(slots),
            block_tables=tables.to(self.device),
            query_starts=tuple(range(0, new * len(contexts) + 1, new)),
            context_lens=tuple(contexts),
            rotary_lens=on_device([context for context in contexts for _ in range(new)]),
            num_decodes=len(contexts) if new == 1 else 0,
        )
        return batch, sum(counts)
