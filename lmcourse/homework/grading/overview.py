"""A Gradebook → a CSV for a spreadsheet, and one HTML page for the eye. Pure: text in, text out.

The page needs no network and no script. Every mark has a sign and a number beside its tint, so it reads without colour,
on paper and aloud.

Lesson: 9 (homework)
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterator, Sequence

from lmcourse.homework.exercise import Exercise
from lmcourse.homework.grading.gradebook import Entry, Gradebook
from lmcourse.homework.grading.judge import Mark, Verdict
from lmcourse.homework.grading.overview_style import STYLE

__all__ = ["csv_text", "overview_html"]

_MEANING = {
    Mark.PASSED: "all cases pass",
    Mark.PARTIAL: "some cases pass",
    Mark.FAILED: "no case passes, or the cell cannot be run",
    Mark.STOPPED: "stopped: time, memory, or its process ended",
    Mark.UNTRIED: "still the stub",
    Mark.MISSING: "not handed in",
}


def csv_text(book: Gradebook) -> str:
    """One row a zip: student, file, points, share, then each exercise's score from 0 to 1."""
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    ids = [exercise.id for exercise in book.exercises]
    writer.writerow(["student", "file", "points", "of", "percent", *ids, "evidence", "hints", "notes"])
    for entry in book.entries:
        points = entry.points(book.exercises)
        scores = [f"{entry.verdicts[name].score:.3f}" if name in entry.verdicts else "0.000" for name in ids]
        met = f"{_num_complete(entry)} of {len(entry.evidence)} tasks"
        shown = [entry.student, entry.file, points, book.most_points, _percent(points, book), *scores, met, entry.hints]
        writer.writerow([_harmless(cell) for cell in (*shown, "; ".join(entry.notes))])
    return sheet.getvalue()


def _harmless(cell: object) -> object:
    """A spreadsheet takes text that begins with one of these for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _percent(points: float, book: Gradebook) -> int:
    return round(100 * points / max(1, book.most_points))


def _num_complete(entry: Entry) -> int:
    return sum(met == total for met, total in entry.evidence.values())


def overview_html(book: Gradebook) -> str:
    """The whole page."""
    parts = [
        "<h1>Homework, graded</h1>",
        _summary(book),
        _exercise_table(book),
        _class_table(book),
        _legend(),
        "<h2>Row by row</h2>",
        *(_details(entry, book.exercises) for entry in book.entries),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    page = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<title>Homework, graded</title></head>'
        f"<body><main>\n{page}\n</main></body></html>\n"
    )


def _summary(book: Gradebook) -> str:
    points = sorted(entry.points(book.exercises) for entry in book.entries)
    middle = points[len(points) // 2] if len(points) % 2 else sum(points[len(points) // 2 - 1 :][:2]) / 2
    refused = sum(entry.refused for entry in book.entries)
    facts = (
        ("submissions", str(len(book.entries))),
        ("median", f"{middle:g} of {book.most_points} points"),
        ("refused", str(refused)),
        ("seed", str(book.seed)),
        ("graded", f"{book.made_at}, in {book.seconds:.0f} s"),
        ("walls", ", ".join(book.walls) or "none"),
    )
    rows = "".join(f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts)
    changed = ", ".join(book.changed_files)
    state = (
        f"Changed while grading: {changed}" if changed else "Grader and zips are as they were before, by their hashes."
    )
    mark = "warning" if changed else "quiet"
    return f'<dl class="facts">{rows}</dl><p class="{mark}">{html.escape(state)}</p>'


def _exercise_table(book: Gradebook) -> str:
    rows = []
    for exercise in book.exercises:
        marks = [entry.verdicts[exercise.id].mark for entry in book.entries if exercise.id in entry.verdicts]
        counts = {mark: marks.count(mark) for mark in Mark}
        total = max(1, len(book.entries))
        share = 100 * counts[Mark.PASSED] / total
        bar = f'<div class="bar" aria-hidden="true"><div style="width: {share:.0f}%"></div></div>'
        cells = "".join(f"<td>{counts[mark] or '·'}</td>" for mark in Mark)
        name = f'<th scope="row">{exercise.id} {html.escape(exercise.title)}</th>'
        rows.append(f"<tr>{name}<td>{exercise.points}</td>{cells}<td>{bar}{counts[Mark.PASSED]} of {total}</td></tr>")
    signs = "".join(f'<th scope="col" title="{_MEANING[mark]}">{mark.value}</th>' for mark in Mark)
    head = f'<tr><th scope="col">exercise</th><th scope="col">points</th>{signs}<th scope="col">passed by</th></tr>'
    return f'<h2>Exercises</h2><table class="exercises"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def _class_table(book: Gradebook) -> str:
    ids = "".join(f'<th scope="col" title="{html.escape(e.title)}">{e.id}</th>' for e in book.exercises)
    ends = '<th scope="col">evidence</th><th scope="col">hints</th>'
    head = f'<tr><th scope="col">student</th><th scope="col">points</th>{ids}{ends}</tr>'
    ordered = sorted(enumerate(book.entries), key=lambda item: (-item[1].points(book.exercises), item[1].student))
    rows = "".join(_class_row(entry, book) for _, entry in ordered)
    return (
        f'<h2>Class</h2><div class="wide"><table class="class"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    )


def _class_row(entry: Entry, book: Gradebook) -> str:
    points = entry.points(book.exercises)
    target = _anchor(entry)
    name = f'<th scope="row"><a href="#{target}">{html.escape(entry.student)}</a></th>'
    total = f'<td class="points"><b>{points:g}</b> <span>{_percent(points, book)} %</span></td>'
    if entry.refused:
        said = f'<td class="refused" colspan="{len(book.exercises) + 2}">refused: see below</td>'
        return f"<tr>{name}{total}{said}</tr>"
    cells = "".join(_mark_cell(entry.verdicts.get(exercise.id)) for exercise in book.exercises)
    evidence = f"<td>{_num_complete(entry)} of {len(entry.evidence)}</td>"
    return f"<tr>{name}{total}{cells}{evidence}<td>{entry.hints or '–'}</td></tr>"


def _mark_cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return "<td>–</td>"
    share = f"<small>{int(100 * verdict.score)}</small>" if verdict.mark is Mark.PARTIAL else ""
    label = f"{_MEANING[verdict.mark]}, score {verdict.score:.2f}"
    sign = f'<span role="img" aria-label="{label}" title="{label}">{verdict.mark.value}</span>'
    return f'<td class="{verdict.mark.name.lower()}">{sign}{share}</td>'


def _legend() -> str:
    signs = "".join(f"<li><b>{mark.value}</b> {meaning}</li>" for mark, meaning in _MEANING.items())
    told = (
        "Points are a share of cases that pass, times the exercise's points; the cases come from the seed above. "
        "Evidence is what the students' own machines recorded: worth a look, and no points."
    )
    return f'<ul class="legend">{signs}</ul><p class="quiet">{told}</p>'


def _details(entry: Entry, exercises: Sequence[Exercise]) -> str:
    rows = "".join(_detail_rows(entry, exercises))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in entry.notes)
    listed = f"<ul>{notes}</ul>" if notes else ""
    title = f"<b>{html.escape(entry.student)}</b> · {entry.points(exercises):g} points · {html.escape(entry.file)}"
    opened = " open" if entry.refused else ""
    table = f"<table>{rows}</table>" if rows else ""
    return f'<details id="{_anchor(entry)}"{opened}><summary>{title}</summary>{listed}{table}</details>'


def _detail_rows(entry: Entry, exercises: Sequence[Exercise]) -> Iterator[str]:
    for exercise in exercises:
        verdict = entry.verdicts.get(exercise.id)
        if verdict is None or verdict.mark is Mark.PASSED:
            continue
        name = f'<th scope="row">{exercise.id}</th><td>{verdict.mark.value} {verdict.score:.2f}</td>'
        yield f"<tr>{name}<td><code>{html.escape(verdict.note)}</code></td></tr>"
    for task, (met, total) in entry.evidence.items():
        if met < total:
            yield f'<tr><th scope="row">{html.escape(task)}</th><td>evidence</td><td>{met} of {total} met</td></tr>'


def _anchor(entry: Entry) -> str:
    return html.escape("".join(c if c.isalnum() else "-" for c in entry.file))
