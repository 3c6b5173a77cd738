"""Requests over steps: who prefills, who decodes, who waits, who loses its blocks.

    A  ▨40 □ □ □ □ □ ■            ▨ prefill with its number of tokens   □ decode, one token   ■ ended
    B  · · ▨12 □ ✕ · ▨15 □ ■      · waits                               ✕ preempted

Steps, not seconds, are the axis: the same on every machine. With one request at a time the picture is a staircase;
with continuous batching the rows lie side by side.

Lesson: 3 (the pool is full), 5 (continuous batching)
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import TINTS, new_axes
from lmcourse.teach.trace import Timeline, letter

__all__ = ["step_chart"]

_MOST_STEPS, _MOST_REQUESTS = 200, 40


def step_chart(table: Timeline, *, title: str = "What each request computes in each step") -> Drawing:
    """A row per request; prefills are hatched and carry their number of tokens, decodes are plain."""
    requests = table.request_ids
    if not (table.work and table.num_steps <= _MOST_STEPS and len(requests) <= _MOST_REQUESTS):
        raise ConfigError(
            "this timeline cannot be drawn",
            expected=f"1 to {_MOST_STEPS} steps of 1 to {_MOST_REQUESTS} requests",
            got=f"{table.num_steps} steps, {len(requests)} requests",
        )
    rows = {request: row for row, request in enumerate(requests)}
    figure, axes = new_axes(9.0, 0.9 + 0.34 * len(requests))
    _draw_lives(axes, table, rows)
    for work in table.work:
        hatch = "////" if work.kind == "prefill" else None
        box = (work.step - 0.5, rows[work.request_id] - 0.38)
        tint = TINTS[work.request_id % len(TINTS)]
        axes.add_patch(Rectangle(box, 1, 0.76, facecolor=tint, edgecolor="black", lw=0.4, hatch=hatch))
        if work.kind == "prefill":
            top = rows[work.request_id] - 0.4
            axes.text(work.step, top, str(work.num_tokens), fontsize=6, ha="center", va="bottom")
    _draw_marks(axes, table, rows)
    axes.set_yticks(range(len(requests)), [letter(request) for request in requests])
    axes.set_xlim(0, table.num_steps + 1)
    axes.set_ylim(len(requests) - 0.4, -0.8)
    axes.set_xlabel("step")
    signs = "hatched: prefill and its tokens · plain: decode · dotted: waiting · ✕ preempted · ● ended"
    axes.set_title(f"{title}   ({signs})", loc="left", fontsize="small")
    return Drawing(figure, _describe(table, title))


def _draw_lives(axes: Axes, table: Timeline, rows: dict[int, int]) -> None:
    """A dotted line from a request's arrival to its end: where nothing lies on it, the request waits."""
    for request, row in rows.items():
        steps = [mark.step for mark in table.marks if mark.request_id == request]
        steps += [work.step for work in table.work if work.request_id == request]
        axes.plot([min(steps) + 0.5, max(steps)], [row, row], color="#777777", lw=0.8, ls=":", zorder=0)


def _draw_marks(axes: Axes, table: Timeline, rows: dict[int, int]) -> None:
    signs = {"preempted": ("x", "black"), "ended": ("o", "black")}
    for mark in table.marks:
        if mark.what in signs:
            sign, color = signs[mark.what]
            axes.plot(mark.step, rows[mark.request_id], sign, color=color, markersize=6 if sign == "x" else 4, mew=1.6)


def _describe(table: Timeline, title: str) -> str:
    parts = []
    for request in table.request_ids:
        steps = [work.step for work in table.work if work.request_id == request]
        prefilled = sum(w.num_tokens for w in table.work if w.request_id == request and w.kind == "prefill")
        decodes = sum(w.request_id == request and w.kind == "decode" for w in table.work)
        lost = sum(mark.request_id == request and mark.what == "preempted" for mark in table.marks)
        span = f"steps {min(steps)} to {max(steps)}" if steps else "no step"
        again = f", preempted {lost} time{'s' * (lost > 1)}" if lost else ""
        parts.append(f"{letter(request)}: {span}, {prefilled} tokens prefilled, {decodes} decodes{again}")
    return f"{title}: {table.num_steps} steps. {'; '.join(parts)}."
