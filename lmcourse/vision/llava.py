"""LLaVA: a tower's features, mapped into the language model's space (arXiv 2304.08485; 1.5: 2310.03744; 1.6: anyres).

    picture ─ load_image ─→ RGB ─ tiles.cut ─→ tiles, order             on the host, when the prompt is read
    tiles ─ normalise ─→ tower ─→ projector ─→ features ─ order ─→ rows   on the device, when a step needs them

The tiles of all pictures of a step go through the tower together. What stands at which token is one gather with the
order that cutting has worked out: rows across tiles, without padding, newlines in between.

Lesson: 6 (from pixels to tokens)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from lmcourse.text.pictures import Picture
from lmcourse.vision.clip import ClipTower
from lmcourse.vision.eyes import Eyes
from lmcourse.vision.images import load_image
from lmcourse.vision.llava_config import LlavaSpec
from lmcourse.vision.tiles import Tiles, cut

__all__ = ["LlavaEncoder", "LlavaEyes", "LlavaPicture", "Projector", "Recorder"]

_MOST_TILES = 16  # in one pass of the tower


@dataclass(frozen=True)
class LlavaPicture:
    """A picture, cut."""

    tiles: Tiles
    size: tuple[int, int]  # width and height before cutting

    @property
    def num_tokens(self) -> int:
        """Features that it becomes."""
        return len(self.tiles.order)

    @cached_property
    def key(self) -> bytes:
        """Of pixels and order: equal keys mean equal features."""
        told = blake2b(self.tiles.order.tobytes(), digest_size=16)
        told.update(self.tiles.pixels.tobytes())
        return told.digest()


class Projector(nn.Module):
    """Linear maps with GELU between them: the tower's features → the language model's."""

    def __init__(self, sizes: Sequence[int], *, bias: bool = True) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(a, b, bias) for a, b in pairwise(sizes))

    def forward(self, features: Tensor) -> Tensor:
        """[..., tower's hidden] → [..., hidden]."""
        for number, linear in enumerate(self.maps):
            features = linear(features if number == 0 else fn.gelu(features))
        return features


class LlavaEyes(Eyes):
    """Tower and projector, with their weights; uint8 tiles in, features out."""

    def __init__(self, spec: LlavaSpec) -> None:
        super().__init__(spec.cutting, spec.hidden, spec.placeholder_id)
        self.spec = spec
        self.tower = ClipTower(spec.tower, max(spec.wanted))
        seen = spec.tower.hidden * len(spec.wanted)
        self.projector = Projector([seen, *[spec.hidden] * spec.num_maps], bias=spec.projector_bias)

    @property
    def like(self) -> Tensor:
        """A weight of the tower."""
        return self.tower.positions

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [tiles, 3, side, side] → [tiles · features of a tile, hidden]."""
        return self.project(self.look(self.normalise(pixels)))

    def look(self, pixels: Tensor) -> Tensor:
        """Normalised pixels → the tower's features [tiles, features of a tile, seen]."""
        features: Tensor = self.tower(pixels, self.spec.wanted)
        return features if self.spec.cutting.class_token else features[:, 1:]

    def project(self, features: Tensor) -> Tensor:
        """[tiles, features of a tile, seen] → [tiles · features of a tile, hidden]."""
        return self.projector(features).flatten(0, 1)  # type: ignore[no-any-return]


class Recorder(Protocol):
    """How repeated work is done: engine/graphs.py has one for CUDA."""

    def run(self, key: Hashable, work: Callable[[], Tensor]) -> Tensor:
        """Do the work, or what was recorded of it under this key."""


class LlavaEncoder:
    """The engine's Encoder for LLaVA."""

    def __init__(self, eyes: Eyes, newline: Tensor | None = None) -> None:
        """newline: [hidden], the learned end of a row of features; None for models that have none."""
        self.eyes, self.newline = eyes.settle(), newline
        self._inputs: dict[int, Tensor] = {}  # by number of tiles: where a recorded pass reads them

    @property
    def placeholder_id(self) -> int:
        """The token id that stands where features go."""
        return self.eyes.placeholder_id

    @property
    def num_bytes(self) -> int:
        """Memory of all weights."""
        return sum(weight.nbytes for weight in self.eyes.parameters())

    def prepare(self, source: Any) -> LlavaPicture:
        """Load and cut a picture; on the host."""
        picture = load_image(source)
        return LlavaPicture(cut(picture, self.eyes.cutting), picture.size)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture], recorder: Recorder | None = None) -> list[Tensor]:
        """Features of each picture [num_tokens, hidden]. recorder: repeats what it has seen in one launch."""
        cuts = [picture.tiles for picture in pictures if isinstance(picture, LlavaPicture)]
        assert len(cuts) == len(pictures), "these pictures were made ready for another model"
        pixels = np.concatenate([tiles.pixels for tiles in cuts])
        weight = self.eyes.like
        passes = [self._look(torch.from_numpy(part), recorder) for part in _split(pixels)]
        newline = weight.new_zeros(self.eyes.hidden) if self.newline is None else self.newline
        features = torch.cat([*passes, newline[None]])  # -1 is the newline
        per_tile = (len(features) - 1) // len(pixels)
        rows, first = [], 0
        for tiles in cuts:
            order = np.where(tiles.order < 0, len(features) - 1, tiles.order + first * per_tile)
            rows.append(features[torch.from_numpy(order).to(weight.device)])
            first += len(tiles.pixels)
        return rows

    def _look(self, pixels: Tensor, recorder: Recorder | None) -> Tensor:
        """One pass: uint8 tiles on the host → features [tiles · features of a tile, hidden]."""
        device, count = self.eyes.like.device, len(pixels)
        if recorder is None:
            features: Tensor = self.eyes(pixels.to(device))
            return features
        if count not in self._inputs:
            self._inputs[count] = torch.empty_like(pixels, device=device)
        self._inputs[count].copy_(pixels)
        return recorder.run(("tiles", count), lambda: self.eyes(self._inputs[count])).clone()


def _split(pixels: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [pixels[start : start + _MOST_TILES] for start in range(0, len(pixels), _MOST_TILES)]
