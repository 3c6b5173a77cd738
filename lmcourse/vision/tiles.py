"""Tiles: a picture of any size as squares that a tower takes, and the order in which their features are read.

    crop     the middle square, scaled                                       1 tile     (CLIP, llava-hf's LLaVA-1.5)
    pad      the whole, on a square of the mean colour, scaled               1 tile     (LLaVA-1.5)
    anyres   the whole as one tile, and a grid of tiles for detail           3 – 5      (LLaVA-1.6)

    anyres, 3:2      ┌─┐   ┌─┬─┐     the picture is scaled into the grid that keeps most of it, the rest is black;
                     │0│   │1│2│     features are read row by row across tiles, without the black rows or columns,
                     └─┘   ├─┼─┤     and each row ends with the learned «newline»
                           │3│4│
                           └─┴─┘

The arithmetic, rounding included, is that of transformers' image processors, whose results these are to the bit before
normalisation.

Lesson: 6 (tiles for detail)
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["ANYRES_GRIDS", "Cutting", "Tiles", "choose_grid", "cut"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ANYRES_GRIDS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # height, width
_MOST_SCALED = 2**24  # pixels, 48 MiB
Pixels = NDArray[np.uint8]
Order = NDArray[np.int64]


@dataclass(frozen=True)
class Cutting:
    """How one model's pictures are cut."""

    side: int  # pixels of a tile
    patches: int  # along a side
    way: str = "pad"  # crop | pad | anyres
    grids: tuple[tuple[int, int], ...] = ANYRES_GRIDS  # height and width in pixels; for anyres
    merge: str = "flat"  # flat: tile after tile; spatial: row by row; spatial_unpad: and without what was padded
    class_token: bool = False  # the tower's class token is a feature, too; not for anyres
    square: bool = False  # crop: scale to a square whatever the picture's shape
    scaled: int | None = None  # crop: pixels of the shorter side before the middle is taken; None: side
    resample: int = Image.Resampling.BICUBIC
    queries: int | None = None  # features of a tile that are no patches of it; None: the patches are the features
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD


@dataclass(frozen=True)
class Tiles:
    """A picture ready for a tower.

    order: which feature stands at which token, counted through the patches of all tiles; -1 is the newline.
    """

    pixels: Pixels  # [tiles, 3, side, side]
    order: Order  # [tokens]


def cut(picture: Image.Image, cutting: Cutting) -> Tiles:
    """An RGB picture as tiles."""
    return _WAYS[cutting.way](picture, cutting)


def _crop(picture: Image.Image, cutting: Cutting) -> Tiles:
    side, scaled = cutting.side, cutting.scaled or cutting.side
    width, height = picture.size
    if cutting.square:
        new_width = new_height = scaled
    elif width <= height:
        new_width, new_height = scaled, int(scaled * height / width)
    else:
        new_width, new_height = int(scaled * width / height), scaled
    left, top = (new_width - side) // 2, (new_height - side) // 2
    if new_width * new_height <= _MOST_SCALED:
        whole = _scale(picture, new_height, new_width, cutting)
        return _single(whole.crop((left, top, left + side, top + side)), cutting)
    # of a long strip the middle alone, which is the same but for rounding: as a whole it could be gigabytes
    across, down = width / new_width, height / new_height
    right, bottom = min((left + side) * across, width), min((top + side) * down, height)
    box = (left * across, top * down, right, bottom)
    return _single(picture.resize((side, side), cutting.resample, box=box), cutting)


def _pad(picture: Image.Image, cutting: Cutting) -> Tiles:
    width, height = picture.size
    longest = max(width, height)
    if width != height:
        square = Image.new("RGB", (longest, longest), tuple(int(part * 255) for part in cutting.mean))
        square.paste(picture, ((longest - width) // 2, (longest - height) // 2))
        picture = square
    return _single(_scale(picture, cutting.side, cutting.side, cutting), cutting)


def _single(tile: Image.Image, cutting: Cutting) -> Tiles:
    order = np.arange(cutting.queries or cutting.class_token + cutting.patches**2)
    if cutting.merge == "spatial_unpad":
        order = np.append(order, -1)
    return Tiles(_pixels(tile)[None], order)


def _anyres(picture: Image.Image, cutting: Cutting) -> Tiles:
    side = cutting.side
    height, width = choose_grid(picture.size[1], picture.size[0], cutting.grids)
    new_height, new_width = _fit(picture, height, width)
    canvas = Image.new("RGB", (width, height))
    with ThreadPoolExecutor(1) as helper:  # scaling is most of the work, and leaves Python's lock alone
        scaled = helper.submit(_scale, picture, new_height, new_width, cutting)
        whole = _pixels(_scale(picture, side, side, cutting))
    canvas.paste(scaled.result(), ((width - new_width) // 2, (height - new_height) // 2))
    rows, columns = height // side, width // side
    detail = _pixels(canvas).reshape(3, rows, side, columns, side).transpose(1, 3, 0, 2, 4)
    tiles = np.concatenate([whole[None], detail.reshape(rows * columns, 3, side, side)])
    return Tiles(tiles, _anyres_order(picture, rows, columns, cutting))


def choose_grid(height: int, width: int, grids: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The grid on which most pixels of the picture remain; of equal ones that with the least black, then the first."""

    def rank(grid: tuple[int, int]) -> tuple[int, int]:
        scale = min(grid[1] / width, grid[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return -kept, grid[0] * grid[1] - kept

    return min(grids, key=rank)


def _fit(picture: Image.Image, height: int, width: int) -> tuple[int, int]:
    """Height and width of the picture scaled into a grid."""
    across, down = width / picture.size[0], height / picture.size[1]
    if across < down:
        return min(ceil(picture.size[1] * across), height), width
    return height, min(ceil(picture.size[0] * down), width)


def _anyres_order(picture: Image.Image, rows: int, columns: int, cutting: Cutting) -> Order:
    patches = cutting.patches
    whole = np.arange(patches**2)
    detail = np.arange(patches**2, (1 + rows * columns) * patches**2)
    if cutting.merge == "flat":
        return np.concatenate([whole, detail])
    by_tile = detail.reshape(rows, columns, patches, patches)
    grid: Order = by_tile.transpose(0, 2, 1, 3).reshape(rows * patches, columns * patches)
    if cutting.merge == "spatial_unpad":
        grid = _unpad(grid, picture.size)
        grid = np.concatenate([grid, np.full((len(grid), 1), -1)], axis=1)
    return np.concatenate([whole, grid.reshape(-1)])


def _unpad(grid: Order, size: tuple[int, int]) -> Order:
    """Without the rows or columns of patches that hold nothing of the picture."""
    (width, height), (rows, columns) = size, grid.shape
    if width / height > columns / rows:
        black = (rows - int(round(height * (columns / width), 7))) // 2
        return grid[black : rows - black]
    black = (columns - int(round(width * (rows / height), 7))) // 2
    return grid[:, black : columns - black]


def _scale(picture: Image.Image, height: int, width: int, cutting: Cutting) -> Image.Image:
    return picture.resize((width, height), cutting.resample)


def _pixels(picture: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))


_WAYS: dict[str, Callable[[Image.Image, Cutting], Tiles]] = {"crop": _crop, "pad": _pad, "anyres": _anyres}
