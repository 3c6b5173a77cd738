"""Training batches of one flat size: rows of whole dialogues, padded on the right, bucketed by length.

tokens_per_batch = rows × row_length for every bucket, so the compiled model meets one shape only:

row_length 64   480 rows  ▏▏▏▏▏▏▏▏          row_length 2048   15 rows  ▏▏
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lmcourse.zoo.corpus import dialogues
from lmcourse.zoo.dialogue import encode_dialogues

__all__ = ["IGNORED", "TOKENS_PER_BATCH", "Batch", "BatchStream"]

TOKENS_PER_BATCH = 30720
IGNORED = -100
_ROW_LENGTHS = (64, 96, 128, 160, 192, 240, 256, 320, 384, 480, 512, 640, 768, 960, 1024, 1280, 1536, 1920, 2048)
_PAD = 2
_DIALOGUES_AT_ONCE = 256


@dataclass(frozen=True)
class Batch:
    """tokens [tokens_per_batch]; positions whose next token is learned [tokens_per_batch / 2], and those tokens."""

    tokens: Tensor
    row_length: int
    positions: Tensor
    targets: Tensor

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; called by the data loader."""
        return Batch(self.tokens.pin_memory(), self.row_length, self.positions.pin_memory(), self.targets.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self.of([part.to(device, non_blocking=True) for part in self.parts()])

    def parts(self) -> list[Tensor]:
        """Its tensors, in the order that `of` takes."""
        return [self.tokens, self.positions, self.targets]

    def of(self, parts: list[Tensor]) -> Batch:
        """A batch of the same row length over other tensors."""
        return Batch(parts[0], self.row_length, parts[1], parts[2])


Row = tuple[np.ndarray, np.ndarray]


def _make_batch(rows: list[Row], row_length: int, tokens_per_batch: int) -> Batch:
    tokens = np.full((len(rows), row_length), _PAD, dtype=np.int64)
    learned = np.zeros((len(rows), row_length), dtype=np.bool_)
    for index, (ids, mask) in enumerate(rows):
        tokens[index, : ids.size] = ids
        learned[index, : ids.size - 1] = mask[1:]
    flat = tokens.reshape(-1)
    positions = np.flatnonzero(learned)[: tokens_per_batch // 2]
    padding = tokens_per_batch // 2 - positions.size
    targets = np.pad(flat[np.minimum(positions + 1, flat.size - 1)], (0, padding), constant_values=IGNORED)
    return Batch(
        torch.from_numpy(flat),
        row_length,
        torch.from_numpy(np.concatenate([positions, np.arange(padding)])),
        torch.from_numpy(targets),
    )


class BatchStream(IterableDataset[Batch]):
    """Endless batches; each worker of a data loader has its own seed, so the sequence is fixed by (seed, workers)."""

    def __init__(self, tokenizer_file: Path, *, seed: int, tokens_per_batch: int = TOKENS_PER_BATCH) -> None:
        super().__init__()
        self.tokenizer_file, self.seed, self.tokens_per_batch = tokenizer_file, seed, tokens_per_batch

    def __iter__(self) -> Iterator[Batch]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.tokenizer_file))
        info = get_worker_info()
        stream = dialogues(self.seed * 1000 + (info.id if info else 0))
        lengths = [length for length in _ROW_LENGTHS if self.tokens_per_batch % length == 0]
        buckets: dict[int, list[Row]] = {length: [] for length in lengths}
        while True:
            for row in encode_dialogues(tokenizer, list(islice(stream, _DIALOGUES_AT_ONCE))):
                length = next((length for length in lengths if length >= row[0].size), None)
                if length is None:
                    continue
                buckets[length].append(row)
                if len(buckets[length]) * length == self.tokens_per_batch:
                    yield _make_batch(buckets[length], length, self.tokens_per_batch)
                    buckets[length] = []
