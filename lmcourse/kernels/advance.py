"""Advance: from the rows of a batch of decodes to the next step's input, on the device.

    token = sampled[source]    position' = position + 1    slot = table[position' / T] · T + position' % T

Decoding one token after another needs nothing from the host: the token is what was sampled last, everything else
follows from the position. A row holds all that its request needs, in int32, so that the host can change any of it in
one copy and does not have to as long as the same requests go on in the blocks that they have:

    TOKEN     the input token, where the host knows it; used if SOURCE is KNOWN
    SOURCE    the row of `sampled` that has the input token; from the second step on, this row's own
    POSITION  of the step before; this step adds 1
    …         prompt length; seed, temperature, top-k, top-p, min-p (sampling.py)
    TABLE     the block table, from this column on

    rows [num_rows, TABLE + columns]   program 0: all rows at once   →   token_ids, positions, slots, rotary_lens

A padding row (SOURCE = PADDING) stays at its position. Traffic: 40 bytes a row; all launch.

Lesson: 3 (one step, no host)
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from lmcourse.kernels.dispatch import Operation, UpTo
from lmcourse.kernels.lang import jit_varying, next_power, tl

__all__ = ["KNOWN", "PADDING", "Field", "Inputs", "advance", "advance_reference", "advance_triton"]

KNOWN, PADDING = -1, -2


class Field(IntEnum):
    """Columns of a row; TEMPERATURE, TOP_P and MIN_P hold the bits of a float32, SEED the halves of 64 bits."""

    TOKEN = 0
    SOURCE = 1
    POSITION = 2
    PROMPT_LEN = 3
    SEED = 4
    SEED_HIGH = 5
    TEMPERATURE = 6
    TOP_K = 7
    TOP_P = 8
    MIN_P = 9
    TABLE = 12  # a multiple of 16 bytes


class Inputs(NamedTuple):
    """What a decode step runs on; all int64 [num_rows]."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    rotary_lens: Tensor


def advance_reference(rows: Tensor, sampled: Tensor, tokens_per_block: int) -> Inputs:
    """The formula, column by column."""
    source = rows[:, Field.SOURCE].long()
    goes_on = source != PADDING
    rows[:, Field.POSITION] += goes_on
    # a negative sample was not finite: the request will fail, but must not lead out of the embedding's table
    token_ids = torch.where(source >= 0, sampled[source.clamp(min=0)].clamp(min=0), rows[:, Field.TOKEN])
    rows[:, Field.SOURCE] = torch.where(goes_on, torch.arange(len(rows), device=rows.device), source)
    positions = rows[:, Field.POSITION].long()
    blocks = rows[:, Field.TABLE :].gather(1, positions[:, None] // tokens_per_block)[:, 0].long()
    slots = blocks * tokens_per_block + positions % tokens_per_block
    return Inputs(token_ids, positions, slots, torch.maximum(rows[:, Field.PROMPT_LEN].long(), positions + 1))


@jit_varying("num_rows", "stride")
def _advance_kernel(
    rows_ptr,
    sampled_ptr,
    ids_ptr,
    positions_ptr,
    slots_ptr,
    lens_ptr,
    num_rows,
    stride,
    TOKENS_PER_BLOCK: tl.constexpr,
    TABLE: tl.constexpr,
    PADDING: tl.constexpr,
    TILE: tl.constexpr,
):
    # which tile am I: all rows
    i = tl.arange(0, TILE)
    m_rows = i < num_rows
    row = rows_ptr + i.to(tl.int64) * stride
    # load
    known = tl.load(row, mask=m_rows, other=0)
    source = tl.load(row + 1, mask=m_rows, other=0)
    position = tl.load(row + 2, mask=m_rows, other=0) + (source != PADDING).to(tl.int32)
    prompt_len = tl.load(row + 3, mask=m_rows, other=0)
    block = tl.load(row + TABLE + position // TOKENS_PER_BLOCK, mask=m_rows, other=0).to(tl.int64)
    fed = tl.load(sampled_ptr + tl.maximum(source, 0), mask=m_rows, other=0)
    tl.static_assert(fed.shape == (TILE,))
    # compute
    token = tl.where(source >= 0, tl.maximum(fed, 0), known.to(tl.int64))
    slot = block * TOKENS_PER_BLOCK + position % TOKENS_PER_BLOCK
    # store
    tl.store(row + 1, tl.where(source == PADDING, source, i), mask=m_rows)
    tl.store(row + 2, position, mask=m_rows)
    tl.store(ids_ptr + i, token, mask=m_rows)
    tl.store(positions_ptr + i, position.to(tl.int64), mask=m_rows)
    tl.store(slots_ptr + i, slot, mask=m_rows)
    tl.store(lens_ptr + i, tl.maximum(prompt_len, position + 1).to(tl.int64), mask=m_rows)


def advance_triton(rows: Tensor, sampled: Tensor, tokens_per_block: int) -> Inputs:
    """One program; no dependent launch, since kernels of the step may read its results before they wait."""
    inputs = Inputs(*(torch.empty(len(rows), dtype=torch.int64, device=rows.device) for _ in Inputs._fields))
    _advance_kernel[(1,)](
        rows, sampled, *inputs, len(rows), rows.stride(0),
        TOKENS_PER_BLOCK=tokens_per_block, TABLE=int(Field.TABLE), PADDING=PADDING, TILE=next_power(len(rows)),
        num_warps=4,
    )  # fmt: skip
    return inputs


_ADVANCE = Operation(reference=advance_reference, triton=(UpTo(float("inf"), advance_triton),))


def advance(rows: Tensor, sampled: Tensor, tokens_per_block: int) -> Inputs:
    """rows int32 [num_rows, TABLE + columns], changed in place; sampled int64, negative where sampling failed."""
    return _ADVANCE.form_for(rows.device)(rows, sampled, tokens_per_block)
