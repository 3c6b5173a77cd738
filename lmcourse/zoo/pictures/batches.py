"""Training batches of conversations about pictures: rows of one length, and a fixed number of pictures to draw.

    row length 192   one picture a row on average          row length 768   three, in long conversations

A row that is too long is cut, never inside a picture. Pictures travel as numbers and are drawn where they are seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lmcourse.zoo.batches import IGNORED
from lmcourse.zoo.pictures.conversation import IMAGE_TOKENS, Row, conversation, tokenised
from lmcourse.zoo.pictures.draw import encode_scenes
from lmcourse.zoo.pictures.sizes import LANGUAGE

__all__ = ["PictureBatch", "PictureStream", "ShownBatch"]

_PAD = 2
# Row length → turns to make, pictures a row, share of the batches.
_SHAPES = {192: (7, 1, 0.9), 768: (28, 3, 0.1)}


@dataclass(frozen=True)
class PictureBatch:
    """tokens [rows * row_length], slots of <image> in them, scenes' codes, learned positions and their next tokens."""

    tokens: Tensor
    row_length: int
    slots: Tensor
    codes: Tensor
    backgrounds: Tensor
    positions: Tensor
    targets: Tensor

    def _all(self) -> list[Tensor]:
        return [self.tokens, self.slots, self.codes, self.backgrounds, self.positions, self.targets]

    def _of(self, parts: list[Tensor]) -> PictureBatch:
        return PictureBatch(parts[0], self.row_length, *parts[1:])

    def pin_memory(self) -> PictureBatch:
        """The same batch in page-locked memory; called by the data loader."""
        return self._of([part.pin_memory() for part in self._all()])

    def to(self, device: torch.device) -> PictureBatch:
        """The same batch on a device."""
        return self._of([part.to(device, non_blocking=True) for part in self._all()])

    def shown(self, pixels: Tensor) -> ShownBatch:
        """The batch with its pictures drawn."""
        return ShownBatch(self.tokens, self.row_length, self.slots, pixels, self.positions, self.targets)


@dataclass(frozen=True)
class ShownBatch:
    """A batch with pixels [pictures, 3, side, side]."""

    tokens: Tensor
    row_length: int
    slots: Tensor
    pixels: Tensor
    positions: Tensor
    targets: Tensor

    def parts(self) -> list[Tensor]:
        """Its tensors, in the order that `of` takes."""
        return [self.tokens, self.slots, self.pixels, self.positions, self.targets]

    def of(self, parts: list[Tensor]) -> ShownBatch:
        """A batch of the same row length over other tensors."""
        return ShownBatch(parts[0], self.row_length, *parts[1:])


class PictureStream(IterableDataset[PictureBatch]):
    """Endless batches; each worker of a data loader has its own seed, so the sequence is fixed by (seed, workers)."""

    def __init__(self, tokenizer_file: Path, *, seed: int, tokens_per_batch: int) -> None:
        super().__init__()
        self.tokenizer_file, self.seed, self.tokens_per_batch = tokenizer_file, seed, tokens_per_batch

    def __iter__(self) -> Iterator[PictureBatch]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        tokenizer = Tokenizer.from_file(str(self.tokenizer_file))
        info = get_worker_info()
        rng = Random(self.seed * 1000 + (info.id if info else 0))
        while True:
            row_length = rng.choices(list(_SHAPES), [share for _, _, share in _SHAPES.values()])[0]
            yield self._batch(rng, tokenizer, row_length)

    def _batch(self, rng: Random, tokenizer: Tokenizer, row_length: int) -> PictureBatch:
        turns, usual, _ = _SHAPES[row_length]
        image, count = LANGUAGE.vocab - 1, self.tokens_per_batch // row_length
        # One picture more in a row and one less in another: the batch shows rows * usual pictures in all.
        pairs = rng.randrange(count // 10 + 1) if count > 1 else 0
        wanted = [usual] * (count - 2 * pairs) + [usual + 1, usual - 1] * pairs
        rows: list[Row] = []
        while wanted:
            chats = [conversation(rng, turns=turns, pictures=pictures) for pictures in wanted]
            made = tokenised(tokenizer, chats)
            cut = [Row(row.ids[:row_length], row.learned[:row_length], row.scenes) for row in made]
            whole = [row.ids.count(image) == len(row.scenes) * IMAGE_TOKENS for row in cut]
            rows += [row for row, fits in zip(cut, whole, strict=True) if fits]
            wanted = [pictures for pictures, fits in zip(wanted, whole, strict=True) if not fits]
        return _stacked(rows, row_length, image)


def _stacked(rows: list[Row], row_length: int, image: int) -> PictureBatch:
    tokens = np.full((len(rows), row_length), _PAD, dtype=np.int64)
    learned = np.zeros((len(rows), row_length), dtype=np.bool_)
    for index, row in enumerate(rows):
        tokens[index, : len(row.ids)] = row.ids
        learned[index, : len(row.ids) - 1] = row.learned[1:]
    flat, room = tokens.reshape(-1), tokens.size // 2
    positions = np.flatnonzero(learned)[:room]
    targets = np.pad(flat[positions + 1], (0, room - positions.size), constant_values=IGNORED)
    codes, backgrounds = encode_scenes([scene for row in rows for scene in row.scenes])
    return PictureBatch(
        torch.from_numpy(flat),
        row_length,
        torch.from_numpy(np.flatnonzero(flat == image)),
        codes,
        backgrounds,
        torch.from_numpy(np.pad(positions, (0, room - positions.size))),
        torch.from_numpy(targets),
    )
