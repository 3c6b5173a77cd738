"""Curves over one quantity, each with its own dashes, marks and name at its end; where two cross, a mark says so.

Lesson: 3 (with and without a cache)
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import DASHES, new_axes

__all__ = ["crossing", "line_chart"]

_MARKERS = "os^Dvx"
Curve = Mapping[float, float]


def crossing(first: Curve, second: Curve) -> float | None:
    """The smallest x from which on `first` stays above `second`, or None; both must have the same x."""
    above = None
    for x in sorted(first):
        if first[x] <= second[x]:
            above = None
        elif above is None:
            above = x
    return above


def line_chart(table: Mapping[str, Curve], *, x_label: str, y_label: str, title: str, log: bool = False) -> Drawing:
    """table[name][x] = y. With two curves the point from which on the first stays above the second is marked."""
    if not table or any(not curve for curve in table.values()):
        raise ConfigError("there is no curve to draw", expected="points for every name", got=table)
    figure, axes = new_axes(8.0, 3.2)
    for n, (name, curve) in enumerate(table.items()):
        xs = sorted(curve)
        ys = [curve[x] for x in xs]
        axes.plot(xs, ys, color="black", ls=DASHES[n % 4], marker=_MARKERS[n % 6], ms=4, mfc="white", lw=1.2)
        axes.annotate(f"  {name}", (xs[-1], ys[-1]), va="center", fontsize=9)
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.minorticks_off()
        ticks = sorted({x for curve in table.values() for x in curve})
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left", fontsize="medium")
    return Drawing(figure, _describe(table, title, x_label, y_label) + _mark_crossing(axes, table))


def _mark_crossing(axes: Axes, table: Mapping[str, Curve]) -> str:
    if len(table) != 2:
        return ""
    first, second = table
    point = crossing(table[first], table[second])
    if point is None:
        return ""
    if point == min(table[first]):
        return f" {first} is above {second} everywhere."
    axes.axvline(point, color="#777777", lw=0.8, ls=":")
    axes.annotate(
        f"from {point:g} on: {first} above", (point, 1), xycoords=axes.get_xaxis_transform(), fontsize=8,
        xytext=(4, -2), textcoords="offset points", va="top",
    )  # fmt: skip
    return f" From {point:g} on, {first} stays above {second}."


def _describe(table: Mapping[str, Curve], title: str, x_label: str, y_label: str) -> str:
    ends = []
    for name, curve in table.items():
        low, high = min(curve), max(curve)
        ends.append(f"{name} goes from {curve[low]:.3g} at {low:g} to {curve[high]:.3g} at {high:g}")
    return f"{title}: {y_label} over {x_label}. {'; '.join(ends)}."
