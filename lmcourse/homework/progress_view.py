"""The progress view: rows → text, HTML, and a thin widget that chooses the lesson. Pure but for the widget.

    lesson 3 · 1 of 3
    ✓ 3.1  The price of a conversation   2 tries   1 hint    11 min
    ◐ 3.2  Hand out the blocks           5 tries   best 75 % 23 min   ← resume here
    ○ 3.3  Attend block by block         not tried

Every state has a sign and a word, so that nothing depends on colour.

Lesson: 9 (homework)
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lmcourse.homework.progress_file import Row, Standing, read_rows

__all__ = ["Progress", "progress", "progress_html", "progress_text"]

_HEAD = ("", "exercise", "title", "tries", "best", "hints", "minutes", "")
_NUMBERS = range(3, 7)


def progress(folder: Path | None = None) -> Progress:
    """Where this student stands; shows itself in a notebook and in a terminal."""
    return Progress(read_rows(folder))


class Progress:
    """Rows that show themselves; `widget` adds a choice of lesson."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self._widget: Any = None

    @property
    def resume(self) -> str | None:
        """The id of the exercise to go on with; None when all are done."""
        return next((row.exercise.id for row in self.rows if row.resume), None)

    @property
    def widget(self) -> Any:
        """The ipywidgets box: its children are the chooser and the table."""
        if self._widget is None:
            self._widget = self._make_widget()
        return self._widget

    def _make_widget(self) -> Any:
        import ipywidgets

        lessons = sorted({row.exercise.lesson for row in self.rows})
        options = [("all lessons", 0), *((f"lesson {lesson}", lesson) for lesson in lessons)]
        chooser = ipywidgets.Dropdown(options=options, value=0, description="show")
        table = ipywidgets.HTML(value=progress_html(self.rows))
        chooser.observe(lambda change: setattr(table, "value", self._page(change["new"])), names="value")
        return ipywidgets.VBox([chooser, table])

    def _page(self, lesson: int) -> str:
        return progress_html([row for row in self.rows if lesson in (0, row.exercise.lesson)])

    def __repr__(self) -> str:
        return progress_text(self.rows)

    def _repr_html_(self) -> str:
        return progress_html(self.rows)


def progress_text(rows: Sequence[Row]) -> str:
    """For a terminal."""
    cells = [_cells(row) for row in rows]
    widths = [max(len(line[n]) for line in [_HEAD, *cells]) for n in range(len(_HEAD))]
    by_exercise = dict(zip((row.exercise.id for row in rows), cells, strict=True))
    lines = [_line(_HEAD, widths)]
    for lesson, group in groupby(rows, key=lambda row: row.exercise.lesson):
        members = list(group)
        lines.append(f"lesson {lesson} · {_count(members)}")
        lines += [_line(by_exercise[row.exercise.id], widths) for row in members]
    return "\n".join([*lines, f"all lessons · {_count(rows)}"])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [c.rjust(w) if n in _NUMBERS else c.ljust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(padded).rstrip()


def progress_html(rows: Sequence[Row]) -> str:
    """For a notebook: one table by lesson. Links lead to the lesson's notebook beside this one."""
    body = []
    for lesson, group in groupby(rows, key=lambda row: row.exercise.lesson):
        members = list(group)
        done = sum(row.standing.done for row in members)
        bar = f'<progress value="{done}" max="{len(members)}" style="vertical-align: middle"></progress>'
        head = f'<th colspan="{len(_HEAD)}" scope="rowgroup" style="text-align: left; padding-top: 0.8em">'
        body.append(f"<tr>{head}{_lesson_link(lesson)} · {_count(members)} {bar}</th></tr>")
        body += [_html_row(row) for row in members]
    head = "".join(f'<th scope="col" style="text-align: {_side(n)}">{name}</th>' for n, name in enumerate(_HEAD))
    caption = f'<caption style="text-align: left">Exercises: {_count(rows)}</caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _html_row(row: Row) -> str:
    cells = [html.escape(cell) for cell in _cells(row)]
    cells[0] = f'<span role="img" aria-label="{_state(row.standing)[1]}">{cells[0]}</span>'
    weight = "; font-weight: bold" if row.resume else ""
    parts = (f'<td style="text-align: {_side(n)}{weight}">{cell}</td>' for n, cell in enumerate(cells))
    return f"<tr>{''.join(parts)}</tr>"


def _side(column: int) -> str:
    return "right" if column in _NUMBERS else "left"


def _lesson_link(lesson: int) -> str:
    """The lesson's notebook, if it lies beside this one."""
    found = sorted(Path.cwd().glob(f"{lesson:02}_*.ipynb"))
    return f'<a href="{html.escape(found[0].name)}">lesson {lesson}</a>' if found else f"lesson {lesson}"


def _cells(row: Row) -> tuple[str, ...]:
    standing, exercise = row.standing, row.exercise
    return (
        _state(standing)[0],
        exercise.id,
        exercise.title,
        str(standing.tries or "–"),
        f"{int(100 * standing.best)} %" if standing.tries else "–",
        str(standing.hints or "–"),
        f"{round(standing.seconds / 60)}" if standing.seconds >= 30 else "–",
        "← resume here" if row.resume else "",
    )


def _state(standing: Standing) -> tuple[str, str]:
    if standing.done:
        return "✓", "done"
    return ("◐", "tried") if standing.tries else ("○", "not tried")


def _count(rows: Sequence[Row]) -> str:
    return f"{sum(row.standing.done for row in rows)} of {len(rows)} done"
