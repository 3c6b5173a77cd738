"""make_batch: the arrays of a mixed step, written out by hand, and checked token by token on random plans."""

from __future__ import annotations

import torch

from lmcourse.engine.batch import make_batch
from lmcourse.engine.request import Request
from lmcourse.engine.scheduler import Chunk, Plan

CPU = torch.device("cpu")


def request_with(request_id: int, prompt: list[int], outputs: list[int], blocks: list[int]) -> Request:
    request = Request(request_id, prompt, max_tokens=1000)
    for token_id in outputs:
        request.append(token_id)
    request.blocks = blocks
    return request


def test_make_batch_of_a_mixed_step() -> None:
    long = request_with(0, [10, 11, 12, 13, 14], [], blocks=[4, 2, 9])
    decode = request_with(1, [20, 21], [22, 23], blocks=[7, 1])
    again = request_with(2, [30], [31, 32], blocks=[3, 5])
    plan = Plan((Chunk(long, 1, 4, False), Chunk(decode, 3, 4, True), Chunk(again, 0, 3, True)))
    batch = make_batch(plan, tokens_per_block=2, device=CPU)
    assert batch.token_ids.tolist() == [23, 11, 12, 13, 30, 31, 32]
    assert batch.layout.positions.tolist() == [3, 1, 2, 3, 0, 1, 2]
    assert batch.layout.slots.tolist() == [3, 9, 4, 5, 6, 7, 10]
    assert batch.layout.block_tables.tolist() == [[7, 1, 0], [4, 2, 9], [3, 5, 0]]
    assert batch.layout.query_starts == (0, 1, 4, 7)
    assert batch.layout.context_lens == (4, 4, 3)
    assert batch.layout.rotary_lens.tolist() == [4, 5, 5, 5, 1, 2, 3]
    assert batch.layout.num_decodes == 1
    assert batch.rows.tolist() == [0, 6]
    assert [chunk.request.request_id for chunk in batch.sampling] == [1, 2]


def test_make_batch_types() -> None:
    plan = Plan((Chunk(request_with(0, [1, 2, 3], [], [0]), 0, 3, True),))
    batch = make_batch(plan, tokens_per_block=4, device=CPU)
    wide = (batch.token_ids, batch.rows, batch.layout.positions, batch.layout.slots, batch.layout.rotary_lens)
    assert {tensor.dtype for tensor in wide} == {torch.int64}
    assert batch.layout.block_tables.dtype == torch.int32
    numbers = (*batch.layout.query_starts, *batch.layout.context_lens, batch.layout.num_decodes)
    assert all(type(number) is int for number in numbers)


def test_make_batch_without_samples() -> None:
    plan = Plan((Chunk(request_with(0, [1, 2, 3], [], [0]), 0, 2, False),))
    batch = make_batch(plan, tokens_per_block=4, device=CPU)
    assert (batch.rows.shape, batch.sampling) == ((0,), ())


def test_make_batch_random_plans_token_by_token(rng) -> None:
    for _ in range(30):
        size = rng.randint(1, 7)
        chunks = []
        for request_id in range(rng.randint(1, 9)):
            prompt, outputs = ([rng.randrange(99) for _ in range(rng.randint(low, 20))] for low in (1, 0))
            known = len(prompt) + len(outputs)
            blocks = rng.sample(range(1000), -(-known // size))
            start = rng.randrange(known)
            stop = rng.randint(start + 1, known)
            request = request_with(request_id, prompt, outputs, blocks)
            chunks.append(Chunk(request, start, stop, stop == known))
        batch = make_batch(Plan(tuple(chunks)), tokens_per_block=size, device=CPU)
        ordered = [c for c in chunks if c.num_tokens == 1] + [c for c in chunks if c.num_tokens > 1]
        flat = [(c.request, p) for c in ordered for p in range(c.start, c.stop)]
        assert batch.token_ids.tolist() == [r.token_ids[p] for r, p in flat]
        assert batch.layout.positions.tolist() == [p for _, p in flat]
        assert batch.layout.slots.tolist() == [r.blocks[p // size] * size + p % size for r, p in flat]
        assert batch.layout.rotary_lens.tolist() == [max(r.prompt_len, p + 1) for r, p in flat]
        assert [flat[row][1] + 1 for row in batch.rows.tolist()] == [c.stop for c in ordered if c.samples]
