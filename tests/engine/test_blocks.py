"""BlockManager: a stateful model of block tables, some of them shared, and the errors of its own invariants."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lmcourse.engine.blocks import BlockManager


class BlockTables(RuleBasedStateMachine):
    """Tables grow, publish their blocks, begin with blocks that others published, and are given back in any order."""

    @initialize(num_blocks=st.integers(1, 12), tokens_per_block=st.integers(1, 5))
    def start(self, num_blocks: int, tokens_per_block: int) -> None:
        self.blocks = BlockManager(num_blocks, tokens_per_block)
        self.tables: dict[int, list[int]] = {}
        self.contents: dict[int, bytes] = {}  # of published blocks, until somebody else gets them
        self.next_id = 0

    def allocate(self, count: int) -> list[int]:
        taken = self.blocks.allocate(count)
        for block in taken:
            self.contents.pop(block, None)
        return taken

    @rule(count=st.integers(0, 6))
    def begin_table(self, count: int) -> None:
        if count <= self.blocks.num_available:
            self.tables[self.next_id] = self.allocate(count)
            self.next_id += 1

    @rule(keys=st.lists(st.binary(max_size=1), max_size=4))
    def begin_table_with_what_is_there(self, keys: list[bytes]) -> None:
        found = self.blocks.find(keys)
        assert [self.contents[block] for block in found] == keys[: len(found)]
        assert len(found) == len(keys) or keys[len(found)] not in self.contents.values()
        self.blocks.share(found)
        self.tables[self.next_id] = found
        self.next_id += 1

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), key=st.binary(max_size=1))
    def publish_one(self, data: st.DataObject, key: bytes) -> None:
        table = self.tables[data.draw(st.sampled_from(sorted(self.tables)))]
        if table:
            block = data.draw(st.sampled_from(table))
            self.blocks.publish(block, key)
            if block not in self.contents and key not in self.contents.values():
                self.contents[block] = key

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def grow_table(self, data: st.DataObject) -> None:
        table = self.tables[data.draw(st.sampled_from(sorted(self.tables)))]
        if self.blocks.num_available:
            table += self.allocate(1)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release_tables(self, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(sorted(self.tables)), min_size=1, unique=True))
        given = [block for name in names for block in self.tables[name]]
        available, expected = self.blocks.num_available, self.blocks.count_released(given)
        for name in names:
            self.blocks.release(self.tables.pop(name))
        assert self.blocks.num_available == available + expected

    @rule()
    def start_over(self) -> None:
        self.blocks.reset()
        self.tables.clear()
        self.contents.clear()

    @invariant()
    def conserved(self) -> None:
        self.blocks.check(self.tables.values())
        taken = {block for table in self.tables.values() for block in table}
        assert all(self.blocks.is_idle(block) for block in range(self.blocks.num_blocks) if block not in taken)
        assert self.blocks.num_available + len(taken) == self.blocks.num_blocks
        assert self.blocks.num_cached == len(self.contents.keys() - taken)


TestBlockTables = BlockTables.TestCase
TestBlockTables.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(("num_tokens", "expected"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_count_blocks_rounds_up(num_tokens: int, expected: int) -> None:
    assert BlockManager(9, 4).count_blocks(num_tokens) == expected


def test_allocate_reuses_what_was_released_last_before_what_was_never_used() -> None:
    blocks = BlockManager(6, 1)
    first, second = blocks.allocate(2), blocks.allocate(2)
    blocks.release(second)
    blocks.release(first)
    assert blocks.allocate(6) == [first[1], first[0], second[1], second[0], 4, 5]


def test_allocate_more_than_free_changes_nothing() -> None:
    blocks = BlockManager(3, 1)
    with pytest.raises(AssertionError, match="asked for 4 blocks, 3 are free"):
        blocks.allocate(4)
    blocks.check([])


def test_release_twice_is_noticed() -> None:
    blocks = BlockManager(3, 1)
    table = blocks.allocate(1)
    blocks.release(table)
    with pytest.raises(AssertionError, match="has no user"):
        blocks.release(table)


def test_check_prints_both_sides() -> None:
    blocks = BlockManager(3, 1)
    table = blocks.allocate(2)
    with pytest.raises(AssertionError, match=r"uses in block tables \{0: 1\} != uses counted \{0: 1, 1: 1\}"):
        blocks.check([table[:1]])
    blocks._free.popleft()
    with pytest.raises(AssertionError, match="3 blocks != 0 free \\+ 0 cached \\+ 2 owned"):
        blocks.check([table])


def test_evict_least_recently_used_and_tail_before_head() -> None:
    blocks = BlockManager(5, 1)
    tables = [blocks.allocate(2), blocks.allocate(2)]
    for table, keys in zip(tables, (b"ab", b"cd"), strict=True):
        for block, key in zip(table, keys, strict=True):
            blocks.publish(block, bytes([key]))
    blocks.release(tables[1])
    blocks.release(tables[0])
    assert (blocks.num_free, blocks.num_cached, blocks.num_available) == (1, 4, 5)
    blocks.share(blocks.find([b"c"]))  # and gives it back: used last now
    blocks.release(tables[1][:1])
    assert blocks.allocate(1) == [4], "memory that holds nothing goes first"
    assert blocks.allocate(4) == [tables[1][1], tables[0][1], tables[0][0], tables[1][0]]
    assert blocks.find([b"a"]) == []


def test_publish_twice_keeps_the_first() -> None:
    blocks = BlockManager(3, 1)
    first, second = blocks.allocate(2)
    for block, key in ((first, b"x"), (second, b"x"), (first, b"y")):
        blocks.publish(block, key)
    assert (blocks.find([b"x"]), blocks.find([b"y"])) == ([first], [])
    blocks.release([first, second])
    assert (blocks.num_free, blocks.num_cached) == (2, 1)


def test_publish_and_share_of_unknown_blocks_are_noticed() -> None:
    blocks = BlockManager(3, 1)
    with pytest.raises(AssertionError, match="has no user"):
        blocks.publish(0, b"x")
    with pytest.raises(AssertionError, match="not published"):
        blocks.share([0])


def test_repr_counts() -> None:
    blocks = BlockManager(5, 64)
    blocks.allocate(2)
    assert repr(blocks) == "BlockManager(5 blocks of 64 tokens: 3 free, 0 cached, 2 owned)"
