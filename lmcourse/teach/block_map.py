"""The pool as a map: one cell per KV block, filled as far as its tokens reach.

    ┌──────┐ ┌──────┐ ╔══════╗ ┌──────┐
    │  A   │ │ B ///│ ║ A  C ║ │      │      full · partly filled, the rest hatched (internal fragmentation)
    └──────┘ └──────┘ ╚══════╝ └──────┘      shared by two requests: a thick edge · free: white
                                             free, but remembered by the prefix cache: "kept", dotted edge

Contract: PoolState in, Drawing out. Letters name the requests, so colour only helps.

Lesson: 3 (the block map)
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import EMPTY_HATCH, TINTS, join_words, new_axes
from lmcourse.teach.trace import PoolState, Use, letter

__all__ = ["block_map"]

_MOST_BLOCKS = 256
_COLUMNS = 16
_SIDE = 0.86  # of a cell's room, the rest is a gap


def block_map(state: PoolState, *, title: str | None = None) -> Drawing:
    """One step of the pool; `title` defaults to the step and what each request does in it."""
    if not 0 < state.num_blocks <= _MOST_BLOCKS:
        raise ConfigError(
            "the pool is too large to be drawn block by block" if state.num_blocks else "the pool has no blocks",
            expected=f"1 to {_MOST_BLOCKS} blocks",
            got=state.num_blocks,
            next_step="give the engine a small pool, for example cache_max_entry_count=16",
        )
    columns = min(_COLUMNS, state.num_blocks)
    rows = -(-state.num_blocks // columns)
    figure, axes = new_axes(max(4.5, 0.62 * columns), 1.0 + 0.62 * rows)
    for block in range(state.num_blocks):
        _draw_cell(axes, block, (block % columns, block // columns), state)
    axes.set_xlim(-0.1, columns)
    axes.set_ylim(rows + 0.45, -0.1)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(title or _headline(state), loc="left", fontsize="small")
    axes.text(0, rows + 0.05, _sums(state), fontsize="small", va="top")
    return Drawing(figure, _describe(state))


def _draw_cell(axes: Axes, block: int, place: tuple[int, int], state: PoolState) -> None:
    x, y = place
    uses = state.uses.get(block, ())
    shared = len(uses) > 1
    if uses:
        filled = max(use.num_tokens for use in uses) / state.tokens_per_block
        tint = TINTS[uses[0].request_id % len(TINTS)]
        axes.add_patch(Rectangle((x, y), _SIDE, _SIDE, facecolor="white", edgecolor="#777777", hatch=EMPTY_HATCH, lw=0))
        axes.add_patch(Rectangle((x, y), _SIDE * filled, _SIDE, facecolor=tint, edgecolor="none"))
        _write(axes, x, y, _users(uses))
    edge = Rectangle((x, y), _SIDE, _SIDE, fill=False, edgecolor="#555555" if uses else "#cccccc", lw=0.8)
    if shared:
        edge.set(edgecolor="black", linewidth=2.6)
    elif block in state.kept:
        edge.set(edgecolor="black", linewidth=1.4, linestyle=":")
        axes.text(x + _SIDE / 2, y + _SIDE / 2 + 0.06, "kept", fontsize=7, style="italic", ha="center", va="center")
    axes.add_patch(edge)
    box = {"facecolor": "white", "lw": 0, "pad": 0.6, "alpha": 0.8}
    axes.text(x + 0.05, y + 0.05, str(block), fontsize=5.5, color="#333333", va="top", ha="left", bbox=box)


def _users(uses: tuple[Use, ...]) -> str:
    """A · A B · A +5"""
    if len(uses) > 2:
        return f"{letter(uses[0].request_id)} +{len(uses) - 1}"
    return " ".join(letter(use.request_id) for use in uses)


def _write(axes: Axes, x: float, y: float, text: str) -> None:
    box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    size = 9 if len(text) < 5 else 6
    axes.text(
        x + _SIDE / 2, y + _SIDE / 2 + 0.06, text, fontsize=size, weight="bold", ha="center", va="center", bbox=box
    )


def _headline(state: PoolState) -> str:
    groups: dict[str, list[str]] = {}
    for request, what in state.doing.items():
        groups.setdefault(what, []).append(letter(request))
    doing = " · ".join(f"{' '.join(letters)}: {what}" for what, letters in groups.items())
    return f"Step {state.step}   {doing}" if doing else f"After step {state.step - 1}: nobody runs"


def _describe(state: PoolState) -> str:
    lines = [f"{_headline(state)}."]
    holders: dict[int, list[str]] = {}
    for block, uses in state.uses.items():
        for use in uses:
            holders.setdefault(use.request_id, []).append(_block_words(block, use, state))
    lines += [f"{letter(request)} holds {join_words(blocks)}." for request, blocks in sorted(holders.items())]
    shared = [str(block) for block, uses in state.uses.items() if len(uses) > 1]
    if shared:
        lines.append(f"Shared: {join_words(shared)}.")
    return " ".join([*lines, _sums(state)])


def _sums(state: PoolState) -> str:
    kept = f", {len(state.kept)} of them kept for whoever begins alike" if state.kept else ""
    free = f"{state.num_blocks - len(state.uses)} of {state.num_blocks} blocks are free{kept}"
    return f"{free}; {state.waste:.0%} of the slots in the others are empty." if state.uses else f"{free}."


def _block_words(block: int, use: Use, state: PoolState) -> str:
    if use.num_tokens == state.tokens_per_block:
        return str(block)
    return f"{block} ({use.num_tokens} token{'s' * (use.num_tokens != 1)})"
