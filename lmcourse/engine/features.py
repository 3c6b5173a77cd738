"""FeatureStore: what pictures look like to the decoder, computed when a step first needs it, and kept for a while.

The idea: a picture in a prompt is a run of placeholder tokens. The scheduler counts them like any others and may cut a
prompt anywhere; whichever chunk comes to lie on a picture, the rows of its features take the place of embeddings:

    prompt     │ text │ picture ··················· │ text │
    chunks     │ 0 ················· │ 1 ··················· │        chunk 0 takes rows 0 … 8, chunk 1 the rest
    features          │ row 0 … row 8│ row 9 … row 14   │

A picture is known by the hash of its contents. So the same picture in the next turn, in another request, or after a
preemption is not encoded again, as long as the memory for features lasts; then the least recently used go.

Contract: the encoder is whatever is given; all pictures that a step lacks are encoded together.

Lesson: 6 (a picture is tokens, too)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from lmcourse.engine.batch import Batch
from lmcourse.engine.graphs import Recorder
from lmcourse.engine.intake import Entry
from lmcourse.engine.scheduler import Plan
from lmcourse.text.pictures import Picture, PictureReader, Piece

if TYPE_CHECKING:
    from lmcourse.models import FeatureRows

__all__ = ["Encoder", "FeatureStore", "shows_pictures"]

_MOST_BYTES = 256 * 2**20  # of features kept: a dozen of the largest pictures of a 7B model


class Encoder(PictureReader, Protocol):
    """Pictures → features, on the decoder's device."""

    @property
    def num_bytes(self) -> int:
        """Memory of its weights."""

    def encode(self, pictures: Sequence[Picture], recorder: Recorder | None = None) -> list[Tensor]:
        """Features of each picture [num_tokens, hidden], in the decoder's dtype; recorder: for passes that recur."""


class _Part(NamedTuple):
    """Rows [start, stop) of a picture's features, for the tokens of a step from `at` on."""

    at: int
    picture: Picture
    start: int
    stop: int


def shows_pictures(plan: Plan, entries: Mapping[int, Entry]) -> bool:
    """Whether any token of a step stands for a part of a picture."""
    return any(
        chunk.start < piece.stop and piece.start < chunk.stop
        for chunk in plan.chunks
        for piece in entries[chunk.request.request_id].pieces
    )


class FeatureStore:
    """Owner of the features that are kept."""

    def __init__(self, encoder: Encoder, recorder: Recorder | None = None, most_bytes: int = _MOST_BYTES) -> None:
        self.encoder, self._recorder = encoder, recorder
        self._most_bytes, self._num_bytes = most_bytes, 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()  # by picture key, the least recently used first
        self.num_encoded = 0  # pictures that the encoder was asked for

    def rows(self, batch: Batch, entries: Mapping[int, Entry]) -> FeatureRows:
        """The features that a step needs, and where."""
        from lmcourse.models import FeatureRows

        parts = list(_find_parts(batch, entries))
        features = self._find({part.picture.key: part.picture for part in parts})
        at = torch.cat([torch.arange(part.at, part.at + part.stop - part.start) for part in parts])
        rows = torch.cat([features[part.picture.key][part.start : part.stop] for part in parts])
        return FeatureRows(at.to(rows.device, non_blocking=True), rows)

    def _find(self, pictures: Mapping[bytes, Picture]) -> dict[bytes, Tensor]:
        """Each one's features, encoded now if they are not there."""
        missing = [picture for key, picture in pictures.items() if key not in self._kept]
        new = self.encoder.encode(missing, self._recorder) if missing else []
        self.num_encoded += len(missing)
        found = {key: self._kept[key] for key in pictures if key in self._kept}
        found |= {picture.key: features for picture, features in zip(missing, new, strict=True)}
        for key, features in found.items():
            if key not in self._kept:
                self._num_bytes += features.nbytes
            self._kept[key] = features
            self._kept.move_to_end(key)
        while self._num_bytes > self._most_bytes:
            self._num_bytes -= self._kept.popitem(last=False)[1].nbytes
        return found


def _find_parts(batch: Batch, entries: Mapping[int, Entry]) -> Iterator[_Part]:
    for chunk, first in zip(batch.chunks, batch.layout.query_starts, strict=False):
        for piece in entries[chunk.request.request_id].pieces:
            part = _overlap(piece, chunk.start, chunk.stop)
            if part.start < part.stop:
                yield part._replace(at=part.at + first)


def _overlap(piece: Piece, start: int, stop: int) -> _Part:
    """The rows for tokens [start, stop) of the prompt; `at` counts from start."""
    low, high = max(piece.start, start), min(piece.stop, stop)
    return _Part(low - start, piece.picture, low - piece.start, high - piece.start)
