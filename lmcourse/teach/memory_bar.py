"""Memory as bars: what a device's bytes are spent on, one bar per case, parts side by side.

    predicted  [ weights ▨▨▨▨▨▨▨▨▨ | KV cache ░░░░░░░ | rest ]
    measured   [ weights ▨▨▨▨▨▨▨▨▨ | KV cache ░░░░░░░ | rest ]          ┊ all there is

Lesson: 3 (three parts of memory, the ladder)
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import GREYS, HATCHES, human_bytes, new_axes

__all__ = ["memory_bar"]

_LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
_ROOM_FOR_LABEL = 0.07  # of the axis: a narrower part is named in the legend alone


def memory_bar(
    table: Mapping[str, Mapping[str, float]], *, limit_bytes: float | None = None, title: str = "Memory"
) -> Drawing:
    """table[case][part] = bytes, cases from top to bottom; `limit_bytes` draws the end of the device's memory."""
    parts = list(dict.fromkeys(part for row in table.values() for part in row))
    values = [value for row in table.values() for value in row.values()]
    if not values or min(values) < 0 or max(values) <= 0:
        raise ConfigError("memory cannot be drawn", expected="bytes, 0 or more, not all 0", got=table)
    longest = max([limit_bytes or 0, *(sum(row.values()) for row in table.values())])
    figure, axes = new_axes(8.5, 0.9 + 0.55 * len(table))
    named: set[str] = set()
    for place, row in enumerate(table.values()):
        start = 0.0
        for part, value in row.items():
            kind = parts.index(part) % len(HATCHES)
            (bar,) = axes.barh(place, value, left=start, height=0.62, label=part if part not in named else None)
            bar.set(facecolor=GREYS[kind], edgecolor="black", hatch=HATCHES[kind], linewidth=0.6)
            named.add(part)
            if value > _ROOM_FOR_LABEL * longest:
                middle = (start + value / 2, place)
                axes.annotate(human_bytes(value), middle, ha="center", va="center", fontsize=8, bbox=_LABEL)
            start += value
        _write_total(axes, start, place)
    if limit_bytes is not None:
        axes.axvline(limit_bytes, color="black", ls="--", lw=1.2)
        axes.annotate(f" {human_bytes(limit_bytes)}", (limit_bytes, -0.5), va="top", fontsize=8)
    axes.set_yticks(range(len(table)), list(table))
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlim(0, 1.14 * longest)
    axes.set_xticks([])
    axes.set_title(title, loc="left", fontsize="medium")
    figure.legend(loc="outside lower left", ncols=len(parts), fontsize=8, frameon=False)
    return Drawing(figure, _describe(table, limit_bytes, title))


def _write_total(axes: Axes, end: float, place: int) -> None:
    """Behind the bar, in front of the limit's line."""
    axes.annotate(
        human_bytes(end), (end, place), xytext=(6, 0), textcoords="offset points",
        va="center", fontsize=8, weight="bold", bbox=_LABEL, zorder=4,
    )  # fmt: skip


def _describe(table: Mapping[str, Mapping[str, float]], limit_bytes: float | None, title: str) -> str:
    rows = []
    for case, row in table.items():
        listed = ", ".join(f"{part} {human_bytes(value)}" for part, value in row.items())
        rows.append(f"{case}: {listed}, together {human_bytes(sum(row.values()))}")
    limit = "" if limit_bytes is None else f" A dashed line stands at {human_bytes(limit_bytes)}."
    return f"{title}. {'; '.join(rows)}.{limit}"
