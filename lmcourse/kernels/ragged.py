"""RaggedBatch: which tokens of a step belong to which request, and where their keys and values live.

A step computes a run of new tokens for each of several requests, laid end to end without padding:

    token      0   1   2 | 3 | 4   5          query_starts = [0, 3, 4, 6]
    request    A   A   A | B | C   C          B decodes one token, A and C prefill
    position   0   1   2 | 9 | 4   5          context_lens = [3, 10, 6]: cached tokens + new ones

Requests with exactly one new token come first, so that `num_decodes` splits the batch in two. Keys and values live in
KV blocks: `block_tables[r, i]` holds request r's positions from i * tokens_per_block on, and a token's slot is
block * tokens_per_block + position % tokens_per_block.

Lesson: 3 (paging)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Alike", "LayerKV", "RaggedBatch", "runs_of"]


def runs_of(tables: Tensor, num_kv_heads: int) -> Tensor:
    """Block tables [requests, columns] → the numbers of [request, head, column]'s runs, a run one head of one block."""
    heads = torch.arange(num_kv_heads, dtype=tables.dtype, device=tables.device)[:, None]
    return heads.add(tables[:, None], alpha=num_kv_heads).flatten()


class LayerKV(NamedTuple):
    """One layer's share of a KV cache that holds keys and values as computed; packed_kv.py has the quantised kind.

    Both [num_blocks, num_kv_heads, tokens_per_block, head_dim].
    """

    keys: Tensor
    values: Tensor

    @property
    def num_kv_heads(self) -> int:
        return self.keys.shape[1]

    @property
    def tokens_per_block(self) -> int:
        return self.keys.shape[2]

    @property
    def head_dim(self) -> int:
        return self.keys.shape[3]

    def read(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of these blocks, both [blocks, num_kv_heads, tokens_per_block, head_dim]."""
        return self.keys.index_select(0, blocks), self.values.index_select(0, blocks)

    def read_tables(self, tables: Tensor) -> tuple[Tensor, Tensor]:
        """What lies behind block tables [requests, columns], both [requests · num_kv_heads, tokens, head_dim]."""
        num_blocks, num_kv_heads, tokens_per_block, head_dim = self.keys.shape
        runs = runs_of(tables, num_kv_heads)
        shape = (tables.shape[0] * num_kv_heads, tables.shape[1] * tokens_per_block, head_dim)
        flat = num_blocks * num_kv_heads, tokens_per_block * head_dim
        keys = self.keys.view(flat).index_select(0, runs).view(shape)
        return keys, self.values.view(flat).index_select(0, runs).view(shape)

    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Put [num_tokens, num_kv_heads, head_dim] at the tokens' slots."""
        blocks, offsets = slots // self.tokens_per_block, slots % self.tokens_per_block
        self.keys[blocks, :, offsets] = keys.to(self.keys.dtype)
        self.values[blocks, :, offsets] = values.to(self.values.dtype)


class Alike(NamedTuple):
    """Decodes of a batch whose contexts differ by a factor of two at most: padded to the longest, little is wasted."""

    rows: Tensor | slice  # int64 [requests]: which of the batch
    tables: Tensor  # int32 [requests, columns]: their block tables
    longest: int  # context
    padding: tuple[Tensor, tuple[Tensor, Tensor]] | None  # bool [requests, longest]: where a context is over; indices


@dataclass(frozen=True)
class RaggedBatch:
    """The layout of one step; tensors live on the model's device, the tuples are the same numbers for the host."""

    positions: Tensor  # int64 [num_tokens]
    slots: Tensor  # int64 [num_tokens]
    block_tables: Tensor  # int32 [num_requests, most blocks of any request], padded with 0
    query_starts: tuple[int, ...]  # [num_requests + 1]
    context_lens: tuple[int, ...]  # [num_requests]; tokens in cache once this step's are written
    rotary_lens: Tensor  # int64 [num_tokens]: max(prompt, context) of the token's request, for dynamic NTK
    num_decodes: int  # the first so many requests have one new token each
    pictured: Tensor | None = None  # int64 [rows]: the tokens that stand for parts of pictures; None: there are none
    starts: Tensor | None = None  # query_starts as int32 on the device, where they were sent along with the rest

    @property
    def num_requests(self) -> int:
        """Requests that take part in this step."""
        return len(self.context_lens)

    @cached_property
    def device_starts(self) -> Tensor:
        """query_starts as int32 [num_requests + 1] on the device; copied once, if they must be."""
        if self.starts is not None:
            return self.starts
        return torch.tensor(self.query_starts, dtype=torch.int32, device=self.positions.device)

    @cached_property
    def alike(self) -> tuple[Alike, ...]:
        """The decodes by length, made once for all layers."""
        lens = self.context_lens[: self.num_decodes]
        groups: list[list[int]] = []
        for row in sorted(range(len(lens)), key=lens.__getitem__):
            if not groups or lens[row] > 2 * lens[groups[-1][0]]:
                groups.append([])
            groups[-1].append(row)
        return tuple(self._pad(sorted(rows)) for rows in groups)

    def _pad(self, rows: list[int]) -> Alike:
        device, lens = self.positions.device, [self.context_lens[row] for row in rows]
        is_run = rows[-1] - rows[0] == len(rows) - 1  # neighbours need no gathering
        which = slice(rows[0], rows[-1] + 1) if is_run else torch.tensor(rows, device=device)
        tables, longest = self.block_tables[which], max(lens)
        if min(lens) == longest:
            return Alike(which, tables, longest, None)
        beyond = torch.arange(longest, device=device) >= torch.tensor(lens, device=device)[:, None]
        request, position = beyond.nonzero(as_tuple=True)
        return Alike(which, tables, longest, (beyond, (request, position)))
