"""PrefixCache: requests that begin alike share the KV blocks of what they have in common. No torch.

The idea: a block's keys and values depend on its tokens and on all tokens before them. So the hash of a block is taken
over its own tokens and the hash of the block before, and one look-up per block finds the longest prefix that anybody
has computed already:

    tokens   │ you are a helpful … │ … assistant. Always │ … say │        key 0 = H(tokens 0 … 63)
    keys     │ 3f…                 │ 9a…                 │       │        key 1 = H(key 0, tokens 64 … 127)
    blocks   │ 5, found: 2 users   │ 2, found: 2 users   │ 7 new │        the rest is computed

Contract: only full, computed blocks are found, never the last known token, since somebody must compute logits. A shared
block is never written. Nothing is thrown away before its memory is wanted, so that a preempted request finds its own
blocks again. `NoPrefixCache` is the engine without all that.

Lesson: 3 (prefix caching)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.request import Request

__all__ = ["NoPrefixCache", "PrefixCache", "Prefixes"]


class Prefixes(Protocol):
    """What the scheduler asks of a prefix cache."""

    def find(self, request: Request) -> list[int]:
        """Blocks that hold the request's first tokens, all but the last known one at most."""

    def awaits(self, request: Request, num_found: int, others: Iterable[Request]) -> bool:
        """Whether one of the others is about to compute the block that comes after those found."""

    def publish(self, request: Request, start: int, stop: int) -> None:
        """Tokens [start, stop) are known and computed; blocks that they complete can be found from now on."""


class NoPrefixCache:
    """Every request computes all of its tokens."""

    def find(self, request: Request) -> list[int]:
        """Nothing."""
        return []

    def awaits(self, request: Request, num_found: int, others: Iterable[Request]) -> bool:
        """No."""
        return False

    def publish(self, request: Request, start: int, stop: int) -> None:
        """Nothing to do."""


class PrefixCache:
    """Names blocks by their contents; the block manager keeps the names."""

    def __init__(self, blocks: BlockManager) -> None:
        self._blocks = blocks

    def _findable_keys(self, request: Request) -> Sequence[bytes]:
        size = self._blocks.tokens_per_block
        return request.block_keys(size)[: (request.num_tokens - 1) // size]

    def find(self, request: Request) -> list[int]:
        """As long as the chain of keys holds."""
        return self._blocks.find(self._findable_keys(request))

    def awaits(self, request: Request, num_found: int, others: Iterable[Request]) -> bool:
        """So that of many requests with one new prefix the first computes it and the others find it, a step later."""
        wanted = self._findable_keys(request)[num_found : num_found + 1]
        size = self._blocks.tokens_per_block
        return bool(wanted) and any(
            other.block_keys(size)[num_found : num_found + 1] == wanted for other in others if other.num_to_compute > 1
        )

    def publish(self, request: Request, start: int, stop: int) -> None:
        """At most once per block, since a request's chunks follow one another."""
        size = self._blocks.tokens_per_block
        if start // size == stop // size:
            return
        keys = request.block_keys(size)
        for index in range(start // size, stop // size):
            self._blocks.publish(request.blocks[index], keys[index])
