"""The kernel, interpreted, reads exactly the slots that the block table and the position name."""

from __future__ import annotations

import importlib.util

import pytest

from lmcourse.errors import ConfigError
from lmcourse.teach import interpret_decode, kernel_reads

HAS_TRITON = importlib.util.find_spec("triton") is not None


@pytest.mark.skipif(not HAS_TRITON, reason="no Triton for this system")
def test_interpreted_kernel_reads_each_slot_once() -> None:
    table, position, length = [6, 1, 4], 38, 16
    run = interpret_decode(table, position=position, tokens_per_block=length, num_blocks=8)
    assert run.error < 1e-5
    for kv_head in (0, 1):
        for what in ("keys", "values"):
            slots = [
                (read.block, slot)
                for read in run.reads
                if (read.kv_head, read.what) == (kv_head, what)
                for slot in range(read.first, read.first + read.num_slots)
            ]
            wanted = [(table[p // length], p % length) for p in range(position + 1)]
            assert sorted(slots) == sorted(wanted)
    assert run.slots_by_block == {6: 16, 1: 16, 4: 7}
    assert {read.split for read in run.reads} <= set(range(run.num_splits))
    assert str(run.reads[0]).startswith("program (KV head 0, split 0) reads keys of block")
    assert "slot 6 of block 4 is this step's own" in run.order
    firsts = {read.split: read.block for read in reversed(run.reads)}
    assert firsts == {0: 1, 1: 4}, "as the words say: the newest block of each share comes first"


@pytest.mark.skipif(not HAS_TRITON, reason="no Triton for this system")
def test_order_of_one_split_ends_with_the_newest_block() -> None:
    run = interpret_decode([3], position=5, tokens_per_block=16, num_blocks=8)
    assert (run.num_splits, run.order) == (1, "one program reads the whole table, the newest block last")


def test_interpret_decode_without_triton_warns_and_reads_nothing(monkeypatch) -> None:
    monkeypatch.setattr(kernel_reads.importlib.util, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="no Triton"):
        run = interpret_decode([6, 1, 4], position=38, tokens_per_block=16, num_blocks=8)
    assert not run.reads
    assert not run.error < 1
    assert run.order == "nothing was read"


@pytest.mark.parametrize(
    "wrong", [{"tokens_per_block": 12}, {"tokens_per_block": 8}, {"position": 48}, {"num_blocks": 6}]
)
def test_interpret_decode_refuses_what_is_no_tile_or_not_reached(wrong) -> None:
    size = {"position": 38, "tokens_per_block": 16, "num_blocks": 8} | wrong
    with pytest.raises(ConfigError):
        interpret_decode([6, 1, 4], **size)
