"""PromptSteps: short prompts, padded to one of a few lengths, so that they are one graph each, too.

The idea: 1024 tokens of a 1.8B model are 5.6 ms of work for an H200 and 9 ms of launches for its host. Padding them to
the next length of a ladder makes the step one of a dozen that can be recorded. Long prompts need no graph: the device
is busy for longer than the host takes to launch.

    tokens   [ prompt A ······ │ prompt B ··· │ padding ]      a length of the ladder
    starts     0                 |A|            |A| + |B|, again for every prompt that there is not

Padding belongs to no prompt: nothing attends to it, and its keys and values go into the spare block.

Lesson: 3 (one graph instead of 150 launches)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lmcourse.engine.batch import Layout, lay_out
from lmcourse.engine.graphs import Recorder
from lmcourse.engine.kv_cache import KVCache
from lmcourse.engine.scheduler import Chunk
from lmcourse.kernels import RaggedBatch
from lmcourse.kernels.sampling import argmax
from lmcourse.models import Decoder

__all__ = ["MOST_PROMPTS", "PromptSteps"]

MOST_PROMPTS = 8
_LENGTHS = (16, 32, 64, *range(128, 1025, 128), *range(1280, 2049, 256))
_ALIGNMENT = 16  # bytes
_Shape = tuple[int, int]  # tokens, prompts


@dataclass(frozen=True)
class PromptSteps:
    """How chunks of few tokens are run; `sampled` are the rows for them, MOST_PROMPTS of the runner's."""

    decoder: Decoder
    kv: KVCache
    sampled: Tensor
    recorder: Recorder
    columns: int  # blocks of the longest request
    _memory: dict[_Shape, tuple[Tensor, Layout[Tensor]]] = field(default_factory=dict)

    @staticmethod
    def fits(chunks: Sequence[Chunk]) -> bool:
        """Whether there is a length and a number of prompts for these."""
        return len(chunks) <= MOST_PROMPTS and sum(chunk.num_tokens for chunk in chunks) <= _LENGTHS[-1]

    def run(self, chunks: Sequence[Chunk], *, greedy: bool) -> Tensor:
        """Hidden states [those that sample, hidden], in their order; greedy: their tokens are in `sampled`."""
        layout = lay_out(chunks, self.kv.tokens_per_block)
        num_tokens = _LENGTHS[bisect_left(_LENGTHS, len(layout.token_ids))]
        shape = num_tokens, 1 if len(chunks) == 1 else MOST_PROMPTS
        self._send(layout, shape)
        count = len(layout.rows)
        greedy = greedy and count > 0
        hidden = self.recorder.run(("prompts", shape, greedy), lambda: self._step(shape, greedy=greedy))
        return hidden[:count]

    def _step(self, shape: _Shape, *, greedy: bool) -> Tensor:
        """The recorded part; hidden [prompts, hidden]."""
        num_tokens, num_prompts = shape
        there = self._memory[shape][1]
        batch = RaggedBatch(
            there.positions,
            there.slots,
            there.tables,
            query_starts=(0, *(num_tokens,) * num_prompts),  # at most
            context_lens=(self.columns * self.kv.tokens_per_block,) * num_prompts,  # at most
            rotary_lens=there.rotary_lens,
            num_decodes=0,
            starts=there.starts,
        )
        hidden: Tensor = self.decoder(there.token_ids, batch, self.kv.layers, rows=there.rows)
        if greedy:
            argmax(self.decoder.logits(hidden), out=self.sampled[:num_prompts])
        return hidden

    def _send(self, layout: Layout[NDArray[Any]], shape: _Shape) -> None:
        """One copy into the memory of this shape, which is made at its first use."""
        device, num_bytes = self.decoder.device, _count_bytes(shape, self.columns)
        if shape not in self._memory:
            memory = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
            self._memory[shape] = memory, _view(memory, shape, self.columns)
        staged = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        padding = Layout(
            token_ids=0,
            positions=0,
            slots=(self.kv.num_blocks - 1) * self.kv.tokens_per_block,
            rotary_lens=1,
            rows=int(layout.rows[-1]) if len(layout.rows) else 0,
            starts=int(layout.starts[-1]),
            tables=0,
        )
        for section, values, rest in zip(_view(staged, shape, self.columns), layout, padding, strict=True):
            array = section.numpy()
            array[:] = rest
            array[tuple(slice(length) for length in values.shape)] = values
        self._memory[shape][0].copy_(staged, non_blocking=True)


def _sections(shape: _Shape, columns: int) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
    """(shape, dtype) of each field of a Layout."""
    num_tokens, num_prompts = shape
    yield from [((num_tokens,), torch.int64)] * 4
    yield (num_prompts,), torch.int64
    yield (num_prompts + 1,), torch.int32
    yield (num_prompts, columns), torch.int32


def _round_up(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _count_bytes(shape: _Shape, columns: int) -> int:
    return sum(_round_up(math.prod(sizes) * dtype.itemsize) for sizes, dtype in _sections(shape, columns))


def _view(memory: Tensor, shape: _Shape, columns: int) -> Layout[Tensor]:
    """The fields of a layout in one piece of memory."""
    views, start = [], 0
    for sizes, dtype in _sections(shape, columns):
        num_bytes = math.prod(sizes) * dtype.itemsize
        views.append(memory[start : start + num_bytes].view(dtype).view(sizes))
        start += _round_up(num_bytes)
    return Layout(*views)
