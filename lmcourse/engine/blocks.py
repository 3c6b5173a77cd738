"""BlockManager: which KV blocks are free and who uses the others. No torch: it counts, KVCache holds the memory.

The idea is that of pages in an operating system: a sequence's keys and values lie in blocks of equal size anywhere
in the pool, so nothing fragments and the only question is how many blocks are left.

    block      0   1   2   3   4   5   6   7        request A: table [5, 0]   users of 5, 0: 1
    users      1   0   2   0   0   1   1   0        requests B and C share 2: users of 2: 2
    free       7, 1, 3, 4  (taken from the front and returned there: what was used last is warm in the caches)

A full block can be published under a key that says what it holds. It is found by that key as long as it holds it: with
users, and without any (cached) until its memory is wanted, the least recently used going first.

Contract: at every moment all blocks = free + cached + owned (`check`). Who never publishes never has a cached block.

Lesson: 3 (paging, prefix caching)
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import takewhile

__all__ = ["BlockManager"]


class BlockManager:
    """The free list, the number of users of every block, and the blocks that can be found by their contents."""

    def __init__(self, num_blocks: int, tokens_per_block: int) -> None:
        self.num_blocks = num_blocks
        self.tokens_per_block = tokens_per_block
        self.reset()

    def reset(self) -> None:
        """Make every block free, whoever used it; the callers' block tables are void from then on."""
        self._users = [0] * self.num_blocks
        self._free = deque(range(self.num_blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()  # the least recently used first
        self._keys: dict[int, bytes] = {}  # of published blocks
        self._by_key: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def num_owned(self) -> int:
        """Blocks with at least one user."""
        return sum(users > 0 for users in self._users)

    @property
    def num_cached(self) -> int:
        """Blocks without a user that still hold contents worth finding again."""
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can hand out: the free ones, then the cached ones."""
        return len(self._free) + len(self._cached)

    def count_blocks(self, num_tokens: int) -> int:
        """Blocks that this many tokens fill, the last one perhaps in part."""
        return -(-num_tokens // self.tokens_per_block)

    def count_released(self, blocks: Sequence[int]) -> int:
        """How many blocks `release` of all these uses, a block perhaps several times, would make available."""
        return sum(self._users[block] == uses for block, uses in Counter(blocks).items())

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks, all or none; the scheduler asks for no more than are available."""
        assert count <= self.num_available, f"asked for {count} blocks, {self.num_available} are free"
        taken = [self._free.popleft() if self._free else self._evict() for _ in range(count)]
        for block in taken:
            self._users[block] = 1
        return taken

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        del self._by_key[self._keys.pop(block)]
        return block

    def publish(self, block: int, key: bytes) -> None:
        """Let a full block, whose contents are computed, be found; nothing happens if another one holds the same."""
        assert self._users[block] > 0, f"block {block} is published but has no user"
        if key not in self._by_key and block not in self._keys:
            self._by_key[key] = block
            self._keys[block] = key

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks of the leading keys, up to the first that is not there."""
        return [self._by_key[key] for key in takewhile(self._by_key.__contains__, keys)]

    def share(self, blocks: Sequence[int]) -> None:
        """Add a user to each of these blocks, which `find` has named."""
        for block in blocks:
            assert block in self._keys, f"block {block} is shared but not published"
            self._cached.pop(block, None)
            self._users[block] += 1

    def is_idle(self, block: int) -> bool:
        """Whether nobody uses the block, so that sharing it takes it from the available ones."""
        return self._users[block] == 0

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one use of each block of a table; without users a block is free, or cached if it can be found.

        A table's tail is evicted before its head, without which it could not be found.
        """
        for block in blocks:
            assert self._users[block] > 0, f"block {block} is released but has no user"
            self._users[block] -= 1
            if self._users[block] == 0 and block not in self._keys:
                self._free.appendleft(block)
        for block in reversed(blocks):
            if self._users[block] == 0 and block in self._keys:
                self._cached[block] = None

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless the pool and the block tables of all requests tell the same story."""
        total = self.num_free + self.num_cached + self.num_owned
        parts = f"{self.num_free} free + {self.num_cached} cached + {self.num_owned} owned"
        assert total == self.num_blocks, f"{self.num_blocks} blocks != {parts}"
        assert len(set(self._free)) == len(self._free), f"a block is free twice: {sorted(self._free)}"
        in_tables = Counter(block for table in tables for block in table)
        counted = Counter({block: users for block, users in enumerate(self._users) if users})
        assert in_tables == counted, f"uses in block tables {dict(in_tables)} != uses counted {dict(counted)}"
        assert not any(self._users[block] for block in (*self._free, *self._cached)), "a block is free and in use"
        assert not any(block in self._keys for block in self._free), "a free block can be found"
        assert all(block in self._keys for block in self._cached), "a cached block cannot be found"
        assert {key: block for block, key in self._keys.items()} == self._by_key, "keys and blocks do not match"

    def __repr__(self) -> str:
        return (
            f"BlockManager({self.num_blocks} blocks of {self.tokens_per_block} tokens: {self.num_free} free, "
            f"{self.num_cached} cached, {self.num_owned} owned)"
        )
