"""BlockManager: a stateful model of block tables, some of them shared, and the errors of its own invariants."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lmcourse.engine.blocks import BlockManager


class BlockTables(RuleBasedStateMachine):
    """Tables grow, are given back in any order, and (as prefix caching will do) a block may get a second user."""

    @initialize(num_blocks=st.integers(1, 12), tokens_per_block=st.integers(1, 5))
    def start(self, num_blocks: int, tokens_per_block: int) -> None:
        self.blocks = BlockManager(num_blocks, tokens_per_block)
        self.tables: dict[int, list[int]] = {}
        self.next_id = 0

    @rule(count=st.integers(0, 6))
    def begin_table(self, count: int) -> None:
        if count <= self.blocks.num_free:
            self.tables[self.next_id] = self.blocks.allocate(count)
            self.next_id += 1

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def grow_table(self, data: st.DataObject) -> None:
        table = self.tables[data.draw(st.sampled_from(sorted(self.tables)))]
        if self.blocks.num_free:
            table += self.blocks.allocate(1)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release_table(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.sampled_from(sorted(self.tables))))
        free, expected = self.blocks.num_free, self.blocks.count_released(table)
        self.blocks.release(table)
        assert self.blocks.num_free == free + expected

    @rule()
    def start_over(self) -> None:
        self.blocks.reset()
        self.tables.clear()

    @invariant()
    def conserved(self) -> None:
        self.blocks.check(self.tables.values())
        taken = [block for table in self.tables.values() for block in table]
        assert len(taken) == len(set(taken)), "one block in two tables"
        assert self.blocks.num_free + len(taken) == self.blocks.num_blocks


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


def test_repr_counts() -> None:
    blocks = BlockManager(5, 64)
    blocks.allocate(2)
    assert repr(blocks) == "BlockManager(5 blocks of 64 tokens: 3 free, 0 cached, 2 owned)"
