"""What a vision-language model does to a picture, drawn: patches, tiles, the prompt it becomes, where a word looks.

    picture ─→ ▦ patches ─→ ▤ features, one row a patch ─→ … 🞑🞑🞑🞑 \\n d e s c r i b e …

Lesson: 6 (a model that sees)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import TINTS, join_words

__all__ = ["draw_attention", "draw_features", "draw_patches", "draw_prompt", "draw_tiles"]


def _pixels(picture: ArrayLike) -> NDArray[np.uint8]:
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ConfigError("only colour pictures are drawn", expected="[height, width, 3]", got=list(pixels.shape))
    return pixels


def _show(axes: Axes, picture: ArrayLike, title: str) -> None:
    axes.imshow(_pixels(picture), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize="small")


def draw_patches(picture: ArrayLike, patch: int) -> Drawing:
    """A picture whole, and cut into squares of `patch` pixels, numbered as they are read."""
    pixels = _pixels(picture)
    down, across = pixels.shape[0] // patch, pixels.shape[1] // patch
    figure = Figure(figsize=(8.2, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _show(left, pixels, f"{pixels.shape[1]} × {pixels.shape[0]} pixels")
    _show(right, _apart(pixels, patch), f"{down * across} patches of {patch} × {patch}; numbers of each row's first")
    right.axis("on")
    right.spines[:].set_visible(False)
    pitch, every = patch + _gap(patch), -(-down // 12)
    rows = range(0, down, every)
    right.set_xticks([])
    right.set_yticks([row * pitch + patch / 2 for row in rows], [str(row * across) for row in rows], fontsize=7)
    right.tick_params(length=0)
    words = f"{pixels.shape[1]} × {pixels.shape[0]} pixels are cut into {down} rows of {across} patches"
    return Drawing(figure, f"{words}, {down * across} in all, read row by row.")


def _gap(patch: int) -> int:
    return max(1, patch // 6)


def _apart(pixels: NDArray[np.uint8], patch: int) -> NDArray[np.uint8]:
    """The patches of a picture on a grey ground, a little apart."""
    pitch = patch + _gap(patch)
    down, across = pixels.shape[0] // patch, pixels.shape[1] // patch
    ground = np.full((down * pitch - _gap(patch), across * pitch - _gap(patch), 3), 205, dtype=np.uint8)
    for row in range(down):
        for column in range(across):
            cut = pixels[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            ground[row * pitch : row * pitch + patch, column * pitch : column * pitch + patch] = cut
    return ground


def draw_features(features: Mapping[str, ArrayLike]) -> Drawing:
    """Each stage's rows as a grey picture: one line a patch, one column a number."""
    arrays = {name: np.asarray(values, dtype=np.float32) for name, values in features.items()}
    figure = Figure(figsize=(8.2, 2.6), layout="constrained")
    widths = [array.shape[1] for array in arrays.values()]
    for axes, (name, array) in zip(figure.subplots(1, len(arrays), width_ratios=widths), arrays.items(), strict=True):
        reach = 2 * float(array.std()) or 1.0
        axes.imshow(array, cmap="gray", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
        axes.set_title(f"{name}\n{array.shape[0]} × {array.shape[1]}", fontsize="small")
        axes.set_xticks([])
        axes.set_ylabel("patch" if axes.get_subplotspec().is_first_col() else "", fontsize="small")
    said = join_words([f"{name}: {a.shape[0]} rows of {a.shape[1]} numbers" for name, a in arrays.items()])
    return Drawing(figure, f"One row a patch at every stage. {said}.")


def draw_tiles(picture: ArrayLike, tiles: Sequence[ArrayLike], grid: tuple[int, int]) -> Drawing:
    """A picture, its whole as the first tile, and the others in their grid (rows, columns)."""
    rows, columns = grid
    if len(tiles) != 1 + rows * columns:
        raise ConfigError("tiles do not fill the grid", expected=1 + rows * columns, got=len(tiles))
    figure = Figure(figsize=(8.2, 2.9), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, squeeze=False)[0]
    height, width = _pixels(picture).shape[:2]
    _show(left.subplots(), picture, f"the picture, {width} × {height}")
    _show(middle.subplots(), tiles[0], "tile 0: the whole")
    right.suptitle(f"tiles 1 to {len(tiles) - 1}", fontsize="small")
    for number, axes in enumerate(np.atleast_1d(right.subplots(rows, columns)).flat):
        _show(axes, tiles[1 + number], "")
    into = f"{len(tiles)} tiles: the whole, and {rows} × {columns} for detail"
    return Drawing(figure, f"A picture of {width} × {height} pixels becomes {into}.")


def draw_prompt(pieces: Sequence[tuple[str, int]]) -> Drawing:
    """The prompt as one bar: (what it is, how many tokens), in order."""
    figure = Figure(figsize=(8.2, 1.1), layout="constrained")
    axes = figure.add_subplot()
    start = 0
    for number, (what, count) in enumerate(pieces):
        axes.barh(
            0, count, left=start, color=TINTS[number % len(TINTS)], edgecolor="black", hatch="..." if count > 40 else ""
        )
        text = axes.text(start + count / 2, 0.62, f"{what}\n{count}", ha="center", va="bottom", fontsize=7)
        text.set_clip_on(False)
        start += count
    axes.set_ylim(-0.45, 1.5)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("tokens", fontsize="small")
    return Drawing(
        figure, f"The prompt of {start} tokens: {join_words([f'{what} {count}' for what, count in pieces])}."
    )


def draw_attention(picture: ArrayLike, weights: Mapping[str, ArrayLike]) -> Drawing:
    """For each word a map [rows, columns] of how much it looks at each patch, laid over the darkened picture."""
    pixels = _pixels(picture).astype(np.float32) / 255
    figure = Figure(figsize=(8.2, 8.2 / len(weights) + 0.4), layout="constrained")
    said = []
    for axes, (word, values) in zip(np.atleast_1d(figure.subplots(1, len(weights))), weights.items(), strict=True):
        table = np.asarray(values, dtype=np.float32)
        rows, columns = (np.arange(pixels.shape[i]) * table.shape[i] // pixels.shape[i] for i in (0, 1))
        light = (table / table.max())[rows][:, columns]
        axes.imshow((pixels * (0.2 + 0.8 * light[..., None])).clip(0, 1), interpolation="nearest")
        axes.set_title(f"“{word}”", fontsize="small")
        axes.axis("off")
        row, column = np.unravel_index(int(table.argmax()), table.shape)
        said.append(f"“{word}” looks most at the patch in row {row}, column {column}")
    return Drawing(figure, f"{join_words(said)}; rows and columns from 0.")
