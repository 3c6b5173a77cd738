"""Tables in, drawings out. Readable without colour: hatches tell groups apart, and every bar carries its number.

Above a bar may stand its limit, what bytes and FLOPs would allow, as a line with its own number.
Contract: no pyplot, no global style, no state; the same table gives the same drawing.

Lesson: 2 (speed), 7 (benchmark)
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import GREYS, HATCHES

__all__ = ["speed_bars"]

Table = Mapping[str, Mapping[str, float]]
_HALF = 0.35  # of a bar's height


def speed_bars(table: Table, *, limits: Table | None = None, title: str = "New tokens per second") -> Drawing:
    """Bars of table[case][program], cases from top to bottom; each program has its own hatch.

    limits[case][program] is drawn above the bar; a bar without one has no line.
    """
    rows = [(case, program, speed) for case, speeds in table.items() for program, speed in speeds.items()]
    if not rows or min(speed for *_, speed in rows) <= 0:
        raise ConfigError("speeds cannot be drawn", expected="one or more positive numbers", got=table)
    programs = list(dict.fromkeys(program for _, program, _ in rows))
    found = [(limits or {}).get(case, {}).get(program) for case, program, _ in rows]
    height = 0.45 if limits is None else 0.62
    figure = Figure(figsize=(7.0, 0.6 + height * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for row, ((_, program, speed), limit) in enumerate(zip(rows, found, strict=True)):
        kind = programs.index(program) % len(HATCHES)
        bar_height = 2 * _HALF if limits is None else 1.3 * _HALF
        axes.barh(row, speed, height=bar_height, color=GREYS[kind], edgecolor="black", hatch=HATCHES[kind])
        axes.annotate(f" {speed:,.0f}", (speed, row), va="center")
        if limit is not None:
            _draw_limit(axes, row, limit)
    labels = [f"{program}, {case}" for case, program, _ in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(*(speed for *_, speed in rows), *(limit or 0.0 for limit in found)))
    axes.set_title(title, loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    shown = "; ".join(map(_say, labels, [speed for *_, speed in rows], found))
    return Drawing(figure, f"{title}, as bars. {shown}.")


def _draw_limit(axes: Axes, row: int, limit: float) -> None:
    """A thin line from zero to the limit, just above the bar, with a stop at its end."""
    y = row - _HALF
    axes.plot([0, limit], [y, y], color="black", lw=0.9, ls="--")
    axes.plot([limit, limit], [y - 0.1, y + 0.1], color="black", lw=1.6)
    axes.annotate(f" {limit:,.0f}", (limit, y), va="center", fontsize="small", style="italic")


def _say(label: str, speed: float, limit: float | None) -> str:
    return f"{label}: {speed:,.0f}" + ("" if limit is None else f" of at most {limit:,.0f}")
