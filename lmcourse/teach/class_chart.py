"""A class at one moment, as a figure: the KV pool by student above, tokens per second by student below.

    ┌ Ada ///////// ┬ Ben .... ┬ Chen ┬ free ─────────────┐
    Ada  ██████████████████  61 %   ●●●○○○  28 blocks
    Ben  █████               18 %   ●        6 blocks         ┊ an equal share

Contract: the server's snapshot in, Drawing out; nothing is asked of anybody.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmcourse.teach.class_table import Snapshot, busy_students, class_summary
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import HATCHES, TINTS

__all__ = ["class_chart"]

_MOST_ROWS = 30
_ROOM_FOR_NAME = 0.012  # of the pool, for each letter
_LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85}


def class_chart(snapshot: Snapshot) -> Drawing:
    """Those at work, who writes most first; of more than thirty, the first thirty."""
    busy = busy_students(snapshot)
    looks = {row["name"]: place for place, row in enumerate(sorted(snapshot["students"], key=lambda row: row["name"]))}
    shown = busy[:_MOST_ROWS]
    figure = Figure(figsize=(9.0, 1.9 + 0.27 * max(1, len(shown))), layout="constrained")
    pool, speeds = figure.subplots(2, 1, height_ratios=[0.8, 0.4 + 0.27 * max(1, len(shown))])
    _draw_pool(pool, snapshot, looks)
    _draw_speeds(speeds, shown, looks, len(busy))
    return Drawing(figure, f"{class_summary(snapshot)} {_list_blocks(busy)}".strip())


def _draw_pool(axes: Axes, snapshot: Snapshot, looks: dict[str, int]) -> None:
    pool = snapshot["pool"]
    holders = sorted((row for row in snapshot["students"] if row["blocks"]), key=lambda row: -row["blocks"])
    held = sum(row["blocks"] for row in holders) + snapshot["others"]["blocks"]
    scale = min(1.0, pool["used"] / max(1, held))  # a block that several share is in the sum more than once
    start = 0.0
    for row in holders:
        _draw_part(axes, start, row["blocks"] * scale, row["name"], pool["blocks"], _look(looks[row["name"]]))
        start += row["blocks"] * scale
    plain = {"facecolor": "white"}
    _draw_part(axes, start, max(0.0, pool["used"] - start), "others", pool["blocks"], plain)
    _draw_part(axes, pool["used"], pool["kept"], "kept for reuse", pool["blocks"], {**plain, "linestyle": ":"})
    _draw_part(axes, pool["used"] + pool["kept"], pool["free"], f"free: {pool['free']:,}", pool["blocks"], plain)
    axes.set_xlim(0, max(1, pool["blocks"]))
    axes.axis("off")
    axes.set_title(f"KV pool: {pool['used']:,} of {pool['blocks']:,} blocks in use", loc="left", fontsize="medium")


def _draw_part(axes: Axes, start: float, width: float, label: str, whole: int, look: dict[str, Any]) -> None:
    if width <= 0:
        return
    axes.barh(0, width, left=start, height=1.0, edgecolor="black", linewidth=0.7, **look)
    if width > _ROOM_FOR_NAME * whole * len(label):
        axes.annotate(_plain(label), (start + width / 2, 0), ha="center", va="center", fontsize=8, bbox=_LABEL)


def _draw_speeds(axes: Axes, rows: list[dict[str, Any]], looks: dict[str, int], num_busy: int) -> None:
    for place, row in enumerate(rows):
        look = _look(looks[row["name"]])
        axes.barh(place, row["throughput_share"], height=0.72, edgecolor="black", linewidth=0.6, **look)
        waits = f", {row['waiting']} waiting" if row["waiting"] else ""
        told = f"{row['tokens_per_second']:,.0f} tokens/s, {row['running']} written{waits}, {row['blocks']:,} blocks"
        axes.annotate(told, (row["throughput_share"], place), xytext=(5, 0), textcoords="offset points",
                      va="center", fontsize=8, bbox=_LABEL)  # fmt: skip
    if rows:
        axes.axvline(1 / num_busy, color="black", ls="--", lw=1.0, zorder=0)
    longest = max((row["throughput_share"] for row in rows), default=0.0)
    axes.set_xlim(0, 1.7 * max(longest, 0.05))
    axes.set_yticks(range(len(rows)), [_plain(row["name"][:24]) for row in rows], fontsize=8)
    axes.set_ylim(max(1, len(rows)) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    title = "Share of all tokens per second; dashed: an equal share" if rows else "Nobody is at work"
    axes.set_title(title, loc="left", fontsize="medium")


def _look(place: int) -> dict[str, Any]:
    return {"facecolor": TINTS[place % len(TINTS)], "hatch": HATCHES[place % len(HATCHES)]}


def _plain(text: str) -> str:
    """Without mathematics: a name may hold dollar signs."""
    return text.replace("$", r"\$")


def _list_blocks(busy: list[dict[str, Any]]) -> str:
    holders = sorted((row for row in busy if row["blocks"]), key=lambda row: -row["blocks"])
    listed = ", ".join(f"{row['name']} {row['blocks']:,}" for row in holders[:5])
    more = f" and {len(holders) - 5} more" if len(holders) > 5 else ""
    return f"KV blocks: {listed}{more}." if holders else ""
