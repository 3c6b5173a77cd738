"""DecodeRows: the requests of a decode step as rows of one tensor that stays where it is.

The idea: the device moves its rows on by itself (kernels/advance.py: the sampled token, the next position, its slot),
so that as long as the same requests go on in the blocks that they have, the host sends nothing at all. It keeps a
mirror of the rows and sends them, in one copy, when a request comes, goes or gets a block.

    row 0   A   token  source  position  …  │ block table          the batch is padded to a size of the ladder
    row 1   B   token  source  position  …  │ block table          1, 2, 4, 8, 16, 24, …, so that few graphs serve all;
    row 2   ─   padding                     │ the spare block      padding writes into a block that nobody owns

Contract: `load` before every step of these rows, `forget` when anything else has written `sampled` or moved a request.

Lesson: 3 (one graph instead of 150 launches)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lmcourse.engine.intake import Entry
from lmcourse.engine.request import Request
from lmcourse.engine.sampling import SamplingRule
from lmcourse.engine.scheduler import Chunk
from lmcourse.kernels.advance import KNOWN, PADDING, Field

__all__ = ["DecodeRows", "ladder"]


def ladder(most: int) -> list[int]:
    """The batch sizes that steps are padded to, the last one not below `most`; at most an eighth is padding."""
    sizes = [1, 2, 4]
    while sizes[-1] < most:
        last = sizes[-1]
        sizes.append(8 if last < 8 else last + max(8, 1 << (last.bit_length() - 4)))
    return sizes[: bisect_left(sizes, most) + 1]


class DecodeRows:
    """The rows on the device, their mirror on the host, and whose they are."""

    def __init__(self, most_rows: int, columns: int, *, spare_block: int, device: torch.device) -> None:
        """columns: blocks of the longest request; spare_block: where padding may write."""
        self.sizes = ladder(most_rows)
        shape = (self.sizes[-1], Field.TABLE + -(-columns // 4) * 4)
        self.device_rows = torch.zeros(shape, dtype=torch.int32, device=device)
        self._padding = np.zeros(shape[1], dtype=np.int32)
        self._padding[Field.SOURCE], self._padding[Field.TABLE :] = PADDING, spare_block
        self._mirror = np.zeros(shape, dtype=np.int32)
        self.row_of: dict[int, int] = {}  # by request id; never changed, only replaced
        self._ids: list[int] = []  # of each row's request
        self._num_blocks: list[int] = []  # of each row's table
        self._next = np.zeros(shape[0], dtype=np.int32)  # the positions that the device will go on with
        self._fresh = False  # whether the device's rows are these

    def forget(self) -> None:
        """The next load starts from nothing."""
        self.row_of, self._ids, self._num_blocks, self._fresh = {}, [], [], False

    def load(self, chunks: Sequence[Chunk], entries: Mapping[int, Entry], pending: Mapping[int, int]) -> int:
        """Make the chunks, one token each, the rows of the next step; the number of rows, padding included.

        pending: by request id, the row of `sampled` with its last token, where the host does not know it.
        """
        count = len(chunks)
        size = self.sizes[bisect_left(self.sizes, count)]
        ids = [chunk.request.request_id for chunk in chunks]
        num_blocks = [len(chunk.request.blocks) for chunk in chunks]
        positions = np.fromiter((chunk.start for chunk in chunks), dtype=np.int32, count=count)
        same = self._fresh and ids == self._ids
        if not (same and num_blocks == self._num_blocks and np.array_equal(self._next[:count], positions)):
            if not same:
                self._move(ids)
            self._update(chunks, num_blocks, entries)
            mirror = self._mirror[:size]
            mirror[:count, Field.POSITION] = positions - 1
            mirror[:count, Field.SOURCE] = [pending.get(request_id, KNOWN) for request_id in ids]
            mirror[:count, Field.TOKEN] = [chunk.request.token_ids[-1] for chunk in chunks]
            mirror[count:] = self._padding
            self._send(size)
            self._num_blocks, self._fresh = num_blocks, True
        self._next[:count] = positions + 1
        return size

    def _move(self, ids: list[int]) -> None:
        """Bring the rows of requests that stay into their new places; those of new ones are empty."""
        old = [self.row_of.get(request_id, -1) for request_id in ids]
        self._mirror[: len(ids)] = self._mirror[old]
        self._num_blocks = [self._num_blocks[row] if row >= 0 else 0 for row in old]
        self.row_of, self._ids = dict(zip(ids, range(len(ids)), strict=True)), ids

    def _update(self, chunks: Sequence[Chunk], num_blocks: Sequence[int], entries: Mapping[int, Entry]) -> None:
        """Fill the rows of new requests and the tables of those that have grown."""
        for row, (count, before) in enumerate(zip(num_blocks, self._num_blocks, strict=True)):
            if count == before:
                continue
            request = chunks[row].request
            if before == 0:
                self._fill(row, request, entries[request.request_id].sampling)
            self._mirror[row, Field.TABLE : Field.TABLE + count] = request.blocks

    def _fill(self, row: int, request: Request, rule: SamplingRule) -> None:
        """All that stays the same in a request's row."""
        mirror = self._mirror[row]
        mirror[Field.PROMPT_LEN] = request.prompt_len
        mirror[Field.SEED : Field.SEED_HIGH + 1] = np.array([rule.seed], dtype=np.uint64).view(np.int32)
        mirror[Field.TOP_K] = min(rule.top_k, 2**31 - 1)
        temperature = rule.temperature and min(max(rule.temperature, 1e-30), 1e30)  # 0 is greedy, and nothing else is
        numbers = {Field.TEMPERATURE: temperature, Field.TOP_P: rule.top_p, Field.MIN_P: rule.min_p}
        for field, number in numbers.items():
            mirror[field] = np.float32(number).view(np.int32)

    def _send(self, size: int) -> None:
        """One copy, from memory that torch keeps until the device has fetched it."""
        on_cuda = self.device_rows.is_cuda
        staged = torch.empty((size, self._mirror.shape[1]), dtype=torch.int32, pin_memory=on_cuda)
        staged.numpy()[:] = self._mirror[:size]
        self.device_rows[:size].copy_(staged, non_blocking=True)
