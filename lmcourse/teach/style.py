"""How figures look: pale colours under black hatches and letters, so that grey print and any eye can read them.

Lesson: 2 (the first plot)
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["DASHES", "EMPTY_HATCH", "GREYS", "HATCHES", "TINTS", "human_bytes", "join_words", "new_axes"]

HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++")
GREYS = ("#d9d9d9", "#bdbdbd", "#f0f0f0", "#cccccc", "#e5e5e5", "#c8c8c8")
# Pale, so that black text on them can be read.
TINTS = (
    "#a6cee3",
    "#fdd0a2",
    "#c7e9c0",
    "#dadaeb",
    "#fcc5c0",
    "#fff2ae",
    "#ccece6",
    "#d9d9d9",
)  # pale: text stays black
EMPTY_HATCH = "//////"  # a slot that is paid for and holds nothing
DASHES = ("-", "--", ":", "-.")


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """One pair of axes with only the left and lower line."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def human_bytes(num_bytes: float) -> str:
    """In GiB from 1 GiB on, in MiB from 1 MiB on, else KiB; three digits or so."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if abs(num_bytes) >= size:
            return f"{num_bytes / size:,.3g} {unit}" if num_bytes < 100 * size else f"{num_bytes / size:,.0f} {unit}"
    return f"{num_bytes / 1024:,.3g} KiB"


def join_words(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
