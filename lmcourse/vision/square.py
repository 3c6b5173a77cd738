"""Squares: a picture scaled until its longer side fits, on a square of one colour; perhaps once more, smaller.

    ┌──────────┐        ┌────────┐          ┌───┐
    │ 1920x1080│ scale  │▒▒▒▒▒▒▒▒│  scale   │▒▒▒│     one square for each tower of DeepSeek-VL; the small one is made
    │          │ ────→  │1024x576│ ──────→  │   │     of the large one, colour around it included
    └──────────┘        │▒▒▒▒▒▒▒▒│          │▒▒▒│
                        └────────┘          └───┘

Two programs were published for this, and they differ: one cuts the shorter side to whole pixels, the other rounds it.
Both keep it from becoming less than a few pixels.

Lesson: 6 (tiles for detail)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmcourse.vision.tiles import CLIP_MEAN, CLIP_STD

__all__ = ["CLIP_COLOURS", "Colours", "Fitting", "fit"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Colours:
    """Red, green and blue from 0 to 1 → what a tower was trained with: (value - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def then(self, other: Colours) -> Colours:
        """Both, one after the other."""
        mean = [m + s * after for m, s, after in zip(self.mean, self.std, other.mean, strict=True)]
        return Colours(tuple(mean), tuple(s * after for s, after in zip(self.std, other.std, strict=True)))


CLIP_COLOURS = Colours(CLIP_MEAN, CLIP_STD)


@dataclass(frozen=True)
class Fitting:
    """How one model's pictures become squares."""

    side: int  # pixels
    smallest: int  # pixels that the shorter side keeps
    background: tuple[int, ...]
    rounds: bool  # the shorter side to the nearest whole number, not down
    resample: int = Image.Resampling.BICUBIC
    small_side: int | None = None  # of a second square, made of the first; None: there is none
    small_resample: int = Image.Resampling.BILINEAR


def fit(picture: Image.Image, fitting: Fitting) -> tuple[Pixels, ...]:
    """An RGB picture as one square or two, each [3, side, side]."""
    side, longest = fitting.side, max(picture.size)
    if fitting.rounds:
        sizes = [max(round(length * (side / longest)), fitting.smallest) for length in picture.size]
    else:
        sizes = [max(int(length / longest * side), fitting.smallest) for length in picture.size]
    scaled = picture.resize((sizes[0], sizes[1]), fitting.resample)
    square = Image.new("RGB", (max(sizes), max(sizes)), fitting.background)
    square.paste(scaled, ((max(sizes) - sizes[0]) // 2, (max(sizes) - sizes[1]) // 2))
    if fitting.small_side is None:
        return (_pixels(square),)
    small = square.resize((fitting.small_side, fitting.small_side), fitting.small_resample)
    return _pixels(square), _pixels(small)


def _pixels(picture: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))
