"""The sum over ranks, for the test of the interpreter: ranks take turns, and what the last one would wait for is there.

A rank waits until all others have raised their flags, so of ranks that run one after another only the last could end.
The others find the flags of those behind them raised, and what they would send in its slot.
"""

from __future__ import annotations

import torch

from lmcourse.kernels.rank_sum import TILE, Mailbox, mailbox_bytes, rank_sum, rank_sum_reference


def make_mailboxes(size, most_elements, device="cpu"):
    """The ranks' mailboxes, all on one device, and the bytes behind them."""
    slot_bytes, flag_bytes = mailbox_bytes(size, most_elements)
    memories = [torch.zeros(slot_bytes + flag_bytes, dtype=torch.uint8, device=device) for _ in range(size)]
    for memory in memories:
        memory[:slot_bytes] = 255  # NaN
    slots = torch.tensor([memory.data_ptr() for memory in memories], device=device)
    epochs = [torch.zeros(most_elements // TILE, dtype=torch.int64, device=device) for _ in range(size)]
    halted = torch.zeros(1, dtype=torch.int32, pin_memory=device == "cuda")
    boxes = [Mailbox(rank, slots, slots + slot_bytes, epochs[rank], halted, most_elements) for rank in range(size)]
    return boxes, memories


def prepare(memories, boxes, parts_of_ranks, epoch):
    """What each rank will have from those that run after it."""
    size, most = len(boxes), boxes[0].most_elements
    slot_bytes = mailbox_bytes(size, most)[0]
    for rank, memory in enumerate(memories):
        for later in range(rank + 1, size):
            own = rank_sum_reference([parts_of_ranks[later]]).flatten()
            slots = memory[:slot_bytes].view(own.dtype)
            first = ((epoch % 2) * size + later) * most
            slots[first : first + len(own)] = own
            memory[slot_bytes:].view(torch.int64).view(size, -1)[later] = epoch


def check_rank_sum():
    """Awkward sizes, 1 to 4 ranks, several sums in a row: slots alternate, and a program may sit out a sum."""
    for size, dtype in ((2, torch.float16), (3, torch.float32), (4, torch.float16), (1, torch.float32)):
        boxes, memories = make_mailboxes(size, 3 * TILE)
        epochs = [0] * 3
        for tokens, features, num_parts in ((1, 37, 1), (5, 300, 3), (2, 1024, 1), (3, 1023, 2), (1, 5, 4)):
            parts = [torch.randn(num_parts, tokens, features).to(dtype) for _ in range(size)]
            programs = -(-tokens * features // TILE)
            for epoch in sorted({before + 1 for before in epochs[:programs]}):
                prepare(memories, boxes, parts, epoch)
            results = [rank_sum(own, box) for own, box in zip(parts, boxes, strict=True)]
            require_sums(results, parts)
            epochs = [before + (program < programs) for program, before in enumerate(epochs)]
            assert all(box.epochs.tolist() == epochs for box in boxes)


def require_sums(results, parts_of_ranks):
    """The same bits everywhere: those of the reference, which are near float64's."""
    want = rank_sum_reference(parts_of_ranks)
    for result in results:
        assert torch.equal(result, want), f"{len(parts_of_ranks)} ranks, {list(want.shape)}, {want.dtype}"
    exact = sum(own.double().sum(0, keepdim=True) for own in parts_of_ranks)
    rounding = torch.finfo(want.dtype).eps * (sum(own.double().abs().sum(0).max() for own in parts_of_ranks))
    assert (want.double() - exact).abs().max() <= 2 * rounding


def check_rank_sum_without_the_others():
    """A rank that waits for one that is lost ends once the host says so; what it computes is void."""
    boxes, memories = make_mailboxes(2, 3 * TILE)
    boxes[0].halted.fill_(1)
    rank_sum(torch.randn(2, 2, 1030), boxes[0])
    assert boxes[0].epochs.tolist() == [1, 1, 1]
    del memories
