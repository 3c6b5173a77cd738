"""What attention reads: the tokens of one request in their order, and the KV blocks that hold them.

    tokens   [0 … 15][16 … 31][32 … 37]        the request sees one run
                │        └────────┐  └──┐
    pool     [0][1][2][3][4][5][6][7][8][9]    the pool holds it anywhere

A token at position p reads the keys and values of positions 0 … p: full blocks, and the filled part of the last.

Lesson: 3 (paged attention)
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import EMPTY_HATCH, TINTS, join_words, new_axes

__all__ = ["read_pattern"]

_TOP, _POOL = 1.6, 0.0


def read_pattern(table: Sequence[int], *, position: int, tokens_per_block: int, num_blocks: int) -> Drawing:
    """The reads of the token at `position`; `table` lists the request's blocks in the order of its tokens."""
    used = position // tokens_per_block + 1 if tokens_per_block > 0 and position >= 0 else 0
    if not (0 < used <= len(table) and all(0 <= block < num_blocks for block in table[:used])):
        raise ConfigError(
            "this token's reads cannot be drawn",
            expected=f"a table that reaches position {position}, of blocks 0 to {num_blocks - 1}",
            got=list(table),
        )
    last = position % tokens_per_block + 1
    width = max(num_blocks, used * 1.4)
    figure, axes = new_axes(min(10.0, max(5.0, 0.55 * width)), 2.5)
    for block in range(num_blocks):
        axes.add_patch(Rectangle((block, _POOL), 0.86, 0.6, facecolor="white", edgecolor="#999999", lw=0.7))
    for place, block in enumerate(table[:used]):
        share = last / tokens_per_block if place == used - 1 else 1.0
        _draw_pair(axes, (place * width / used, block), share, f"{place * tokens_per_block}–"
                   f"{place * tokens_per_block + (last if share < 1 else tokens_per_block) - 1}")  # fmt: skip
    for block in range(num_blocks):
        weight = "bold" if block in table[:used] else "normal"
        axes.text(block + 0.43, _POOL - 0.06, str(block), fontsize=7, ha="center", va="top", weight=weight)
    axes.text(0, _TOP + 0.68, "positions that the token reads, in order", fontsize=8)
    axes.text(0, _POOL - 0.42, "blocks of the pool", fontsize=8, va="top")
    axes.set_xlim(-0.1, width + 0.1)
    axes.set_ylim(-0.75, _TOP + 1.0)
    axes.axis("off")
    return Drawing(figure, _describe(table[:used], position, tokens_per_block))


def _draw_pair(axes: Axes, places: tuple[float, int], share: float, text: str) -> None:
    """A stretch of positions above, its block below, and the line between them."""
    x, block = places
    for left, bottom in ((x, _TOP), (float(block), _POOL)):
        axes.add_patch(
            Rectangle((left, bottom), 0.86, 0.6, facecolor="white", edgecolor="#777777", hatch=EMPTY_HATCH, lw=0)
        )
        axes.add_patch(Rectangle((left, bottom), 0.86 * share, 0.6, facecolor=TINTS[0], edgecolor="none"))
        axes.add_patch(Rectangle((left, bottom), 0.86, 0.6, fill=False, edgecolor="black", lw=1.0))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
    axes.text(x + 0.43, _TOP + 0.3, text, fontsize=7, ha="center", va="center", bbox=box)
    axes.annotate("", (block + 0.43, _POOL + 0.62), (x + 0.43, _TOP - 0.02), arrowprops={"arrowstyle": "->", "lw": 0.9})


def _describe(table: Sequence[int], position: int, tokens_per_block: int) -> str:
    *full, newest = map(str, table)
    last = position % tokens_per_block + 1
    reads = f"{'the first slot' if last == 1 else f'the first {last} slots'} of {newest}"
    if full:
        reads = f"all {tokens_per_block} slots of {join_words(full)} and {reads}"
    return f"The token at position {position} reads {reads}."
