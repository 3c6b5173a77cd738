"""Batch: a Plan as the tensors that the model runs on.

The idea: no padding. The tokens of all chunks lie end to end, and four arrays say for each of them where it belongs;
see kernels/ragged.py for the picture. Built with a handful of numpy operations, whatever the number of requests, and
sent to the device in one copy that nobody waits for.

A token that the step before is still sampling is known to the device alone: its place in token_ids is left open, and
`feed` says which row of the device's last samples goes there.

Contract: chunks of one token come first (`RaggedBatch.num_decodes`); `rows` are the tokens to sample after, one per
chunk of `sampling`, in the same order.

Lesson: 3 (continuous batching)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmcourse.engine.scheduler import Chunk, Plan
from lmcourse.kernels import RaggedBatch

__all__ = ["Batch", "Feed", "Layout", "block_tables", "lay_out", "make_batch", "send"]

T = TypeVar("T")
_ALIGNMENT = 16  # bytes: what a kernel's widest load needs


class Feed(NamedTuple):
    """token_ids[at] = sampled[rows], both int64 [tokens that only the device knows]."""

    at: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Batch:
    """One step's input."""

    token_ids: Tensor  # int64 [num_tokens]
    layout: RaggedBatch
    rows: Tensor  # int64 [len(sampling)]
    sampling: tuple[Chunk, ...]
    feed: Feed
    chunks: tuple[Chunk, ...] = ()  # in the order of their tokens


class Layout(NamedTuple, Generic[T]):
    """A run of chunks, end to end, as arrays or as whatever goes with them; the names are RaggedBatch's and Batch's."""

    token_ids: T
    positions: T
    slots: T
    rotary_lens: T
    rows: T
    starts: T  # int32, like the tables; the others are int64
    tables: T


def lay_out(chunks: Sequence[Chunk], tokens_per_block: int) -> Layout[NDArray[Any]]:
    """In the order of the chunks; their requests own the blocks of all tokens (`Scheduler.apply` came before)."""
    lengths = np.array([chunk.num_tokens for chunk in chunks])
    starts = np.concatenate([[0], lengths.cumsum()])
    shift = np.array([chunk.start for chunk in chunks]) - starts[:-1]
    positions = np.arange(starts[-1]) + np.repeat(shift, lengths)
    tables = block_tables(chunks)
    owners = np.repeat(np.arange(len(chunks)), lengths)
    block_starts = tables[owners, positions // tokens_per_block].astype(np.int64) * tokens_per_block
    prompt_lens = np.array([chunk.request.prompt_len for chunk in chunks])
    # by token, not by request: a preempted request must turn its old tokens as it did the first time
    rotary_lens = np.maximum(np.repeat(prompt_lens, lengths), positions + 1)
    rows = starts[1:][np.array([chunk.samples for chunk in chunks])] - 1
    slots = block_starts + positions % tokens_per_block
    return Layout(_known_ids(chunks), positions, slots, rotary_lens, rows, starts.astype(np.int32), tables)


def make_batch(
    plan: Plan, *, tokens_per_block: int, device: torch.device, sampled_rows: Mapping[int, int] | None = None
) -> Batch:
    """sampled_rows: by request id, where the device keeps the token that is still pending."""
    chunks = sorted(plan.chunks, key=lambda chunk: chunk.num_tokens > 1)
    layout = lay_out(chunks, tokens_per_block)
    pending = [row for row, chunk in enumerate(chunks) if chunk.stop > len(chunk.request.token_ids)]
    sources = [(sampled_rows or {})[chunks[row].request.request_id] for row in pending]
    at = layout.starts[1:][pending].astype(np.int64) - 1
    *sent, sent_at, sent_sources = send([*layout, at, np.array(sources, dtype=np.int64)], device)
    token_ids, positions, slots, rotary_lens, rows, starts, tables = sent
    ragged = RaggedBatch(
        positions,
        slots,
        tables,
        query_starts=tuple(layout.starts.tolist()),
        context_lens=tuple(chunk.stop for chunk in chunks),
        rotary_lens=rotary_lens,
        num_decodes=sum(chunk.num_tokens == 1 for chunk in chunks),
        starts=starts,
    )
    sampling = tuple(chunk for chunk in chunks if chunk.samples)
    return Batch(token_ids, ragged, rows, sampling, Feed(sent_at, sent_sources), tuple(chunks))


def _known_ids(chunks: Sequence[Chunk]) -> NDArray[np.int64]:
    """The tokens end to end, 0 for those still pending."""
    ids: list[int] = []
    for chunk in chunks:
        ids += chunk.request.token_ids[chunk.start : chunk.stop]
        if chunk.stop > len(chunk.request.token_ids):
            ids.append(0)
    return np.array(ids, dtype=np.int64)


def block_tables(chunks: Sequence[Chunk]) -> NDArray[np.int32]:
    """[num_requests, most blocks of any request], padded with 0."""
    tables = np.zeros((len(chunks), max(len(chunk.request.blocks) for chunk in chunks)), dtype=np.int32)
    for row, chunk in enumerate(chunks):
        tables[row, : len(chunk.request.blocks)] = chunk.request.blocks
    return tables


def send(arrays: Sequence[NDArray[np.generic]], device: torch.device) -> list[Tensor]:
    """The arrays as tensors on the device, in one copy; on CUDA from pinned memory, so that the host goes on."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays]
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    packed = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=True)
    for array, start in zip(arrays, starts, strict=False):
        packed[start : start + array.nbytes].numpy()[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = packed.to(device, non_blocking=True)
    return [
        there[start : start + array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
        for array, start in zip(arrays, starts, strict=False)
    ]
