"""DeepSeek-VL: 576 features for every picture, from one tower or from two (arXiv 2403.05525).

    1.3B   384 x 384   ─ SigLIP-L ─→ 24 x 24 ─→ map, GELU, map ─→ 576 rows
    7B     384 x 384   ─ SigLIP-L ─→ 24 x 24 ─→ map to the second half ─┐
           1024 x 1024 ─ SAM-B ────→ 24 x 24 ─→ map to the first half ──┴─ GELU, map ─→ 576 rows

Place by place both towers speak of the same part of the picture: one of what it shows, one of how it looks in detail.
The publisher's program makes the small picture of the large one on the device, in floating point; transformers' makes
both on the host, in bytes. A picture here holds what its folder's program hands to the device.

Lesson: 6 (from pixels to tokens)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from lmcourse.text.pictures import Picture
from lmcourse.vision.deepseek_vl_spec import DeepseekVlSpec
from lmcourse.vision.images import load_image
from lmcourse.vision.llava import Projector, Recorder
from lmcourse.vision.sam import SamTower
from lmcourse.vision.siglip import SiglipTower
from lmcourse.vision.square import Colours, Pixels, fit

__all__ = ["Aligner", "DeepseekVlEncoder", "DeepseekVlEyes", "DeepseekVlPicture"]

_MOST_PICTURES = 4  # in one pass, which at 1024 pixels a side has 16384 patches


@dataclass(frozen=True)
class DeepseekVlPicture:
    """A picture, fitted."""

    squares: tuple[Pixels, ...]  # one or two, each [3, side, side]
    num_tokens: int

    @cached_property
    def key(self) -> bytes:
        """Of the pixels: equal keys mean equal features."""
        told = blake2b(digest_size=16)
        for square in self.squares:
            told.update(square.tobytes())
        return told.digest()


class Aligner(nn.Module):
    """What the towers say → the language model's space."""

    def __init__(self, spec: DeepseekVlSpec) -> None:
        super().__init__()
        if spec.high is None:
            self.maps = Projector([spec.low.hidden, *[spec.hidden] * spec.num_maps]).maps
        else:
            self.low = nn.Linear(spec.low.hidden, spec.hidden // 2)
            self.high = nn.Linear(4 * spec.high.channels, spec.hidden // 2)
            self.maps = Projector([spec.hidden] * spec.num_maps).maps

    def forward(self, low: Tensor, high: Tensor | None) -> Tensor:
        """[n, features, seen] each → [n, features, hidden]."""
        if high is not None:
            low = torch.cat([self.high(high), self.low(low)], dim=-1)
        for number, linear in enumerate(self.maps):
            low = linear(low if number == 0 and high is None else fn.gelu(low))
        return low


class DeepseekVlEyes(nn.Module):
    """Towers and aligner, with their weights; uint8 squares in, features out."""

    def __init__(self, spec: DeepseekVlSpec) -> None:
        super().__init__()
        self.spec = spec
        self.low = SiglipTower(spec.low)
        self.high = None if spec.high is None else SamTower(spec.high)
        self.aligner = Aligner(spec)
        self.colours = self._constants(torch.device("cpu"))

    def settle(self) -> DeepseekVlEyes:
        """All weights are there: bring the constants to their device, where a recorded pass can find them."""
        self.colours = self._constants(self.low.positions.device)
        return self.eval()

    def _constants(self, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        def place(colours: Colours) -> tuple[Tensor, Tensor]:
            mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (colours.mean, colours.std))
            return mean, std

        return {"low": place(self.spec.low_colours), "high": place(self.spec.high_colours)}

    def forward(self, *squares: Tensor) -> Tensor:
        """uint8 [n, 3, side, side], the larger first → [n, features, hidden]."""
        low, high = self.normalise(*squares)
        return self.aligner(  # type: ignore[no-any-return]
            self.low(low), None if self.high is None or high is None else self.high(high)
        )

    def normalise(self, *squares: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 → what SigLIP takes, and what SAM takes."""
        values = [square.float() / 255 for square in squares]
        if self.high is not None and len(values) == 1:
            side = self.spec.low.side
            values.append(fn.interpolate(values[0], size=(side, side), mode="bilinear", antialias=True))
        mean, std = self.colours["low"]
        dtype = self.low.positions.dtype
        low = ((values[-1] - mean) / std).to(dtype)
        if self.high is None:
            return low, None
        mean, std = self.colours["high"]
        return low, ((values[0] - mean) / std).to(dtype)


class DeepseekVlEncoder:
    """The engine's Encoder for DeepSeek-VL."""

    def __init__(self, eyes: DeepseekVlEyes) -> None:
        self.eyes = eyes.settle()
        self._inputs: dict[int, list[Tensor]] = {}  # by number of pictures: where a recorded pass reads them

    @property
    def placeholder_id(self) -> int:
        """The token id that stands where features go."""
        return self.eyes.spec.placeholder_id

    @property
    def num_bytes(self) -> int:
        """Memory of all weights."""
        return sum(weight.nbytes for weight in self.eyes.parameters())

    def prepare(self, source: Any) -> DeepseekVlPicture:
        """Load and fit a picture; on the host."""
        return DeepseekVlPicture(fit(load_image(source), self.eyes.spec.fitting), self.eyes.spec.num_tokens)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture], recorder: Recorder | None = None) -> list[Tensor]:
        """Features of each picture [num_tokens, hidden]. recorder: repeats what it has seen in one launch."""
        fitted = [picture.squares for picture in pictures if isinstance(picture, DeepseekVlPicture)]
        assert len(fitted) == len(pictures), "these pictures were made ready for another model"
        parts = [fitted[start : start + _MOST_PICTURES] for start in range(0, len(fitted), _MOST_PICTURES)]
        return [rows for part in parts for rows in self._look(part, recorder)]

    def _look(self, fitted: Sequence[tuple[Pixels, ...]], recorder: Recorder | None) -> Tensor:
        """One pass: squares on the host → features [n, num_tokens, hidden]."""
        squares = [torch.from_numpy(np.stack(views)) for views in zip(*fitted, strict=True)]
        device, count = self.eyes.low.positions.device, len(fitted)
        if recorder is None:
            features: Tensor = self.eyes(*(square.to(device) for square in squares))
            return features
        if count not in self._inputs:
            self._inputs[count] = [torch.empty_like(square, device=device) for square in squares]
        for place, square in zip(self._inputs[count], squares, strict=True):
            place.copy_(square)
        return recorder.run(("pictures", count), lambda: self.eyes(*self._inputs[count])).clone()
