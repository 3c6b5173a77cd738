"""Sum over ranks: y = Σ over ranks, Σ over a rank's parts, where every rank has its parts on a GPU of its own.

Two sums a layer stand between one GPU's work and two GPUs' work. A library's all-reduce is two kernels' worth of
waiting for 8 KiB; here every rank pushes its part into a slot that each other rank keeps for it, raises a flag, waits
for the others' flags and adds up what arrived (one-shot all-reduce).

Traffic, one token of Llama2-7B (4096 features, 2 bytes), 2 ranks:

    read own part                  8 KiB of own memory
    push it to every rank          8 KiB over the link, 8 KiB at home
    add up what arrived            read 16 KiB, write 8 KiB

8 KiB at 450 GB/s are 18 ns: what takes time is a store, a flag and a look at it, one after the other, over the link.

    rank 0   part ──┬─▶ rank 0, slot 0      flag 0 ─┐
                    └─▶ rank 1, slot 0      flag 0 ─┼─ all flags of my tile? ─▶ slot 0 + slot 1 + …, in this order
    rank 1   part ─── … slot 1              flag 1 ─┘

Numerics: parts are added in float32 and rounded to their dtype once before they are sent; slots are added in float32 in
the order of the ranks, so every rank has the same bits. A flag is the number of the sum (epoch); sums alternate between
two sets of slots: a rank that is two ahead knows from the flag between that this one has been read.

Measured (benchmarks/ranks_h200.json, two H200 with NV18): 8 KiB and a product 5.9 µs, with NCCL's all-reduce 10.9.

Lesson: 9 (more than one GPU)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.kernels.lang import jit, jit_varying, launch_options, let_next_start, tl, triton, wait_for_inputs

__all__ = ["Mailbox", "mailbox_bytes", "rank_sum", "rank_sum_reference"]

TILE = 1024
_LOOKS = 1024  # at a flag, about a millisecond, before one at the host's word
_FLAG_BYTES, _SLOT_BYTES = 8, 4  # an epoch; the widest element


@dataclass(frozen=True)
class Mailbox:
    """What a rank keeps for the sums of at most `most_elements` elements."""

    rank: int
    slots: Tensor  # [size] int64: where each rank's slots begin, as addresses that this device can write to
    flags: Tensor  # [size] int64: the same of their flags, which begin as 0
    epochs: Tensor  # [programs] int64 of this rank alone: sums that a program has been through
    halted: Tensor  # [1] int32 in the host's memory: not 0 once a rank is lost, and nobody waits any more
    most_elements: int


def mailbox_bytes(size: int, most_elements: int) -> tuple[int, int]:
    """(of the slots, of the flags) that each of `size` ranks needs; most_elements is a multiple of TILE."""
    return 2 * size * most_elements * _SLOT_BYTES, size * (most_elements // TILE) * _FLAG_BYTES


def rank_sum_reference(parts_of_ranks: Sequence[Tensor]) -> Tensor:
    """What every rank gets: [1, …] of the parts [num_parts, …] of each."""
    own = [parts.float().sum(dim=0, keepdim=True).to(parts.dtype) for parts in parts_of_ranks]
    total = own[0].float()
    for part in own[1:]:
        total = total + part.float()
    return total.to(own[0].dtype)


@jit
def _push(b_own, slots_ptr, first, at, m_at, SIZE: tl.constexpr, DTYPE: tl.constexpr):
    """Into the same slot of every rank."""
    for peer in tl.static_range(SIZE):
        slot = tl.multiple_of(tl.load(slots_ptr + peer).to(tl.pointer_type(DTYPE)), 16)
        tl.store(slot + first + at, b_own, mask=m_at)


@jit
def _raise_flags(flags_ptr, flag, epoch, SIZE: tl.constexpr):
    """What this program has stored is there for whoever sees the epoch."""
    tl.debug_barrier()  # stores of all threads, before the one that speaks for them
    for peer in tl.static_range(SIZE):
        flags = tl.load(flags_ptr + peer).to(tl.pointer_type(tl.int64))
        tl.atomic_xchg(flags + flag, epoch, sem="release", scope="sys")


@jit
def _await_flags(
    own_flags, program, epoch, halted_ptr, SIZE: tl.constexpr, PROGRAMS: tl.constexpr, LOOKS: tl.constexpr
):
    """Until every rank has come to this sum (a flag that is further on counts, too), or the host ends the wait.

    The host's word is far away and rarely looked at. It is a word and no kernel that sets the flags: work that is
    launched while others wait may be lined up behind them.
    """
    for peer in tl.static_range(SIZE):
        flag = own_flags + peer * PROGRAMS + program
        looks = tl.full((), 0, dtype=tl.int32)
        halted = tl.full((), 0, dtype=tl.int32)
        while (tl.atomic_add(flag, 0, sem="acquire", scope="sys") < epoch) & (halted == 0):
            looks += 1
            if looks % LOOKS == 0:
                halted = tl.load(halted_ptr, volatile=True)
    tl.debug_barrier()


@jit_varying("rank")  # one kernel for all: none is loaded while another waits
def _rank_sum_kernel(
    parts_ptr,
    out_ptr,
    slots_ptr,
    flags_ptr,
    epochs_ptr,
    halted_ptr,
    num_elements,
    rank,
    NUM_PARTS: tl.constexpr,
    SIZE: tl.constexpr,
    MOST_ELEMENTS: tl.constexpr,
    TILE: tl.constexpr,
    LOOKS: tl.constexpr,
    PDL: tl.constexpr,
):
    # which tile am I: TILE elements, the same ones on every rank
    PROGRAMS: tl.constexpr = MOST_ELEMENTS // TILE
    program = tl.program_id(0)
    at = program * TILE + tl.arange(0, TILE)
    m_at = at < num_elements
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load
    epoch = tl.load(epochs_ptr + program) + 1
    b_own = tl.zeros((TILE,), dtype=tl.float32)
    for part in tl.static_range(NUM_PARTS):
        b_own += tl.load(parts_ptr + part * num_elements + at, mask=m_at, other=0.0).to(tl.float32)
    # compute: tell the others, hear the others
    dtype: tl.constexpr = parts_ptr.dtype.element_ty
    first = (epoch % 2) * SIZE * MOST_ELEMENTS
    _push(b_own.to(dtype), slots_ptr, first + rank * MOST_ELEMENTS, at, m_at, SIZE, dtype)
    _raise_flags(flags_ptr, rank * PROGRAMS + program, epoch, SIZE)
    own_flags = tl.load(flags_ptr + rank).to(tl.pointer_type(tl.int64))
    _await_flags(own_flags, program, epoch, halted_ptr, SIZE, PROGRAMS, LOOKS)
    slots = tl.multiple_of(tl.load(slots_ptr + rank).to(tl.pointer_type(dtype)), 16) + first
    b_sum = tl.zeros((TILE,), dtype=tl.float32)
    for peer in tl.static_range(SIZE):
        # not from the first level of cache, which knows nothing of what others write
        b_sum += tl.load(slots + peer * MOST_ELEMENTS + at, mask=m_at, other=0.0, cache_modifier=".cg").to(tl.float32)
    tl.static_assert(b_sum.shape == (TILE,))
    # store
    tl.store(out_ptr + at, b_sum.to(dtype), mask=m_at)
    tl.store(epochs_ptr + program, epoch)


def rank_sum(parts: Tensor, mailbox: Mailbox) -> Tensor:
    """[num_parts, num_tokens, features] → [1, num_tokens, features], the same bits on every rank; all ranks call it.

    ValueError beyond most_elements. Triton only: there is no other way to look into another rank's memory.
    """
    num_parts, num_elements = parts.shape[0], parts[0].numel()
    if num_elements > mailbox.most_elements:
        raise ValueError(
            f"a sum over ranks does not fit into their slots\n  expected: at most {mailbox.most_elements} elements\n"
            f"  got: {num_elements}"
        )
    out = torch.empty((1, *parts.shape[1:]), dtype=parts.dtype, device=parts.device)
    if num_elements:
        _rank_sum_kernel[(triton.cdiv(num_elements, TILE),)](
            parts.contiguous(), out, mailbox.slots, mailbox.flags, mailbox.epochs, mailbox.halted,
            num_elements, mailbox.rank, NUM_PARTS=num_parts, SIZE=len(mailbox.slots),
            MOST_ELEMENTS=mailbox.most_elements, TILE=TILE, LOOKS=_LOOKS, num_warps=4, **launch_options(parts.device),
        )  # fmt: skip
    return out
