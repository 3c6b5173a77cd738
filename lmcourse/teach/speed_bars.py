"""Tables in, drawings out. Readable without colour: hatches tell groups apart, and every bar carries its number.

Contract: no pyplot, no global style, no state; the same table gives the same drawing.

Lesson: 2 (speed), 7 (benchmark)
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import GREYS, HATCHES

__all__ = ["speed_bars"]


def speed_bars(table: Mapping[str, Mapping[str, float]], *, title: str = "New tokens per second") -> Drawing:
    """Bars of table[case][program], cases from top to bottom; each program has its own hatch."""
    rows = [(case, program, speed) for case, speeds in table.items() for program, speed in speeds.items()]
    if not rows or min(speed for *_, speed in rows) <= 0:
        raise ConfigError("speeds cannot be drawn", expected="one or more positive numbers", got=table)
    programs = list(dict.fromkeys(program for _, program, _ in rows))
    labels = [f"{program}, {case}" for case, program, _ in rows]
    figure = Figure(figsize=(7.0, 0.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for row, (_, program, speed) in enumerate(rows):
        kind = programs.index(program) % len(HATCHES)
        axes.barh(row, speed, height=0.7, color=GREYS[kind], edgecolor="black", hatch=HATCHES[kind])
        axes.annotate(f" {speed:,.0f}", (speed, row), va="center")
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(speed for *_, speed in rows))
    axes.set_title(title, loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    shown = "; ".join(f"{label}: {speed:,.0f}" for label, (*_, speed) in zip(labels, rows, strict=True))
    return Drawing(figure, f"{title}, as bars. {shown}.")
