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
_FEW = 6  # so many values of x are written at the axis, each
_NAME_POINTS = 11.0  # height of a line of names
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
    for n, curve in enumerate(table.values()):
        xs = sorted(curve)
        ys = [curve[x] for x in xs]
        axes.plot(xs, ys, color="black", ls=DASHES[n % 4], marker=_MARKERS[n % 6], ms=4, mfc="white", lw=1.2)
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.minorticks_off()
    ticks = sorted({x for curve in table.values() for x in curve})
    if log or len(ticks) <= _FEW:
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    _name_ends(axes, table)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left", fontsize="medium")
    return Drawing(figure, _describe(table, title, x_label, y_label) + _mark_crossing(axes, table))


def _name_ends(axes: Axes, table: Mapping[str, Curve]) -> None:
    """Each name stands at its curve's end, higher where it would lie on another name."""
    points_per_pixel = 72 / axes.figure.dpi
    ends = {name: (max(curve), curve[max(curve)]) for name, curve in table.items()}
    taken = float("-inf")
    for name, end in sorted(ends.items(), key=lambda item: item[1][1]):
        height = float(axes.transData.transform(end)[1]) * points_per_pixel
        place = max(height, taken + _NAME_POINTS)
        taken = place
        axes.annotate(
            f"  {name}", end, xytext=(0, place - height), textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip


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
        low, high, least = min(curve), max(curve), min(curve, key=lambda x: curve[x])
        between = "" if least in (low, high) else f" by way of its lowest, {curve[least]:.3g} at {least:g},"
        ends.append(f"{name} goes from {curve[low]:.3g} at {low:g}{between} to {curve[high]:.3g} at {high:g}")
    return f"{title}: {y_label} over {x_label}. {'; '.join(ends)}."
