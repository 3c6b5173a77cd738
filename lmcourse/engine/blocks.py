"""BlockManager: which KV blocks are free and who uses the others. No torch: it counts, KVCache holds the memory.

The idea is that of pages in an operating system: a sequence's keys and values lie in blocks of equal size anywhere
in the pool, so nothing fragments and the only question is how many blocks are left.

    block      0   1   2   3   4   5   6   7        request A: table [5, 0]   users of 5, 0: 1
    users      1   0   2   0   0   1   1   0        requests B and C share 2: users of 2: 2
    free       7, 1, 3, 4  (taken from the front and returned there: what was used last is warm in the caches,
                            and memory that was never needed is never touched)

Contract: at every moment all blocks = free + cached + owned (`check`). Cached blocks, which nobody uses but whose
contents could be found again, are those of prefix caching; without it their number is 0.

Lesson: 3 (paging)
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

__all__ = ["BlockManager"]


class BlockManager:
    """The free list and the number of users of every block."""

    def __init__(self, num_blocks: int, tokens_per_block: int) -> None:
        self.num_blocks = num_blocks
        self.tokens_per_block = tokens_per_block
        self.reset()

    def reset(self) -> None:
        """Make every block free, whoever used it; the callers' block tables are void from then on."""
        self._users = [0] * self.num_blocks
        self._free = deque(range(self.num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can hand out."""
        return len(self._free)

    @property
    def num_owned(self) -> int:
        """Blocks with at least one user."""
        return sum(users > 0 for users in self._users)

    @property
    def num_cached(self) -> int:
        """Blocks without a user that still hold contents worth finding again."""
        return 0

    def count_blocks(self, num_tokens: int) -> int:
        """Blocks that this many tokens fill, the last one perhaps in part."""
        return -(-num_tokens // self.tokens_per_block)

    def count_released(self, blocks: Sequence[int]) -> int:
        """How many blocks `release(blocks)` would make free: those without another user."""
        return sum(self._users[block] == 1 for block in blocks)

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks, all or none; the scheduler asks for no more than there are."""
        assert count <= len(self._free), f"asked for {count} blocks, {len(self._free)} are free"
        taken = [self._free.popleft() for _ in range(count)]
        for block in taken:
            self._users[block] = 1
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one use of each block; with its last user a block becomes free, a table's tail to be taken first."""
        for block in blocks:
            assert self._users[block] > 0, f"block {block} is released but has no user"
            self._users[block] -= 1
            if self._users[block] == 0:
                self._free.appendleft(block)

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless the pool and the block tables of all requests tell the same story."""
        total = self.num_free + self.num_cached + self.num_owned
        parts = f"{self.num_free} free + {self.num_cached} cached + {self.num_owned} owned"
        assert total == self.num_blocks, f"{self.num_blocks} blocks != {parts}"
        assert len(set(self._free)) == len(self._free), f"a block is free twice: {sorted(self._free)}"
        in_tables = Counter(block for table in tables for block in table)
        counted = Counter({block: users for block, users in enumerate(self._users) if users})
        assert in_tables == counted, f"uses in block tables {dict(in_tables)} != uses counted {dict(counted)}"
        assert not any(self._users[block] for block in self._free), "a block is free and in use"

    def __repr__(self) -> str:
        return (
            f"BlockManager({self.num_blocks} blocks of {self.tokens_per_block} tokens: {self.num_free} free, "
            f"{self.num_cached} cached, {self.num_owned} owned)"
        )
