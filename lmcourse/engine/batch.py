"""Batch: a Plan as the tensors that the model runs on.

The idea: no padding. The tokens of all chunks lie end to end, and four arrays say for each of them where it belongs;
see kernels/ragged.py for the picture. Built with a handful of numpy operations, whatever the number of requests.

Contract: chunks of one token come first (`RaggedBatch.num_decodes`); `rows` are the tokens to sample after, one per
chunk of `sampling`, in the same order.

Lesson: 3 (continuous batching)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmcourse.engine.scheduler import Chunk, Plan
from lmcourse.kernels import RaggedBatch

__all__ = ["Batch", "make_batch"]


@dataclass(frozen=True)
class Batch:
    """One step's input."""

    token_ids: Tensor  # int64 [num_tokens]
    layout: RaggedBatch
    rows: Tensor  # int64 [len(sampling)]
    sampling: tuple[Chunk, ...]


def make_batch(plan: Plan, *, tokens_per_block: int, device: torch.device) -> Batch:
    """The requests of the plan own the blocks of all tokens in it (`Scheduler.apply` came before)."""
    chunks = sorted(plan.chunks, key=lambda chunk: chunk.num_tokens > 1)
    lengths = np.array([chunk.num_tokens for chunk in chunks])
    query_starts = np.concatenate([[0], lengths.cumsum()])
    shift = np.array([chunk.start for chunk in chunks]) - query_starts[:-1]
    positions = np.arange(query_starts[-1]) + np.repeat(shift, lengths)
    tables = _block_tables(chunks)
    owners = np.repeat(np.arange(len(chunks)), lengths)
    block_starts = tables[owners, positions // tokens_per_block].astype(np.int64) * tokens_per_block
    prompt_lens = np.array([chunk.request.prompt_len for chunk in chunks])
    token_ids = np.array([t for chunk in chunks for t in chunk.request.token_ids[chunk.start : chunk.stop]])

    def to_device(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device)

    layout = RaggedBatch(
        positions=to_device(positions),
        slots=to_device(block_starts + positions % tokens_per_block),
        block_tables=to_device(tables),
        query_starts=tuple(query_starts.tolist()),
        context_lens=tuple(chunk.stop for chunk in chunks),
        # by token, not by request: a preempted request must turn its old tokens as it did the first time
        rotary_lens=to_device(np.maximum(np.repeat(prompt_lens, lengths), positions + 1)),
        num_decodes=int((lengths == 1).sum()),
    )
    samples = np.array([chunk.samples for chunk in chunks])
    rows = to_device(query_starts[1:][samples] - 1)
    return Batch(to_device(token_ids), layout, rows, tuple(chunk for chunk in chunks if chunk.samples))


def _block_tables(chunks: list[Chunk]) -> NDArray[np.int32]:
    """[num_requests, most blocks of any request], padded with 0."""
    tables = np.zeros((len(chunks), max(len(chunk.request.blocks) for chunk in chunks)), dtype=np.int32)
    for row, chunk in enumerate(chunks):
        tables[row, : len(chunk.request.blocks)] = chunk.request.blocks
    return tables
