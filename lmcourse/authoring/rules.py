"""What a lesson may look like: rules that keep lessons readable, so that reviews can be about content.

    cells     ≤ 60 · code ≤ 25 lines · no two code cells in a row unless the second is a check
    prose     ≤ 80 words a cell (≤ 150 in an exercise), tables and code not counted · ≤ 3 prose cells in a row
    measured  ≤ a quarter of the code cells, each followed by a cell tagged check
    exercise  statement, code with a solution, check, of an exercise that homework knows and of this lesson
    language  each prose cell in every language of the lesson
    notebook  every code cell was run, without errors, widget state, addresses or paths of the machine that built it

Contract: functions return lines `file:line: what is wrong` and never raise for a lesson that could be read.

Lesson: 1 (how this course is made)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby, pairwise

import nbformat

from lmcourse.authoring.source import LANGUAGES, Cell, Lesson
from lmcourse.errors import ConfigError
from lmcourse.homework import find_exercise

__all__ = ["count_words", "find_faults", "notebook_faults"]

_MAX_CELLS, _MAX_CODE_LINES, _MAX_PROSE_CELLS = 60, 25, 3
_MAX_WORDS, _MAX_EXERCISE_WORDS = 80, 150
_NOT_PROSE = re.compile(r"```.*?```|^\s*\|.*?$|<[^>]+>|\]\([^)]*\)|^\s*[-=#>]+\s", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"[A-Za-z0-9À-ɏ_'’-]+")
_HAN = re.compile(r"[\u3400-\u9fff]")
_MACHINE = {
    "a memory address": re.compile(r"\bat 0x[0-9a-f]{6,}"),
    "a path of this machine": re.compile(r"(?<![\w~.])/(?:home|root|Users|work|tmp|private|var)/[\w.-]+"),
    "a terminal colour code": re.compile(r"\x1b\["),
}


def find_faults(lesson: Lesson) -> list[str]:
    """Everything in a lesson's source that breaks a rule."""
    faults = list(_parity_faults(lesson))
    for language in lesson.languages:
        cells = lesson.cells_in(language)
        for rule in (_size_faults, _rhythm_faults, _measured_faults, _exercise_faults):
            faults += [f"{lesson.path.name}:{line}: {what}" for line, what in rule(cells)]
    faults += [f"{lesson.path.name}:{line}: {what}" for line, what in _lesson_faults(lesson)]
    return sorted(set(faults), key=lambda fault: int(fault.split(":")[1]))


def count_words(prose: str) -> int:
    """Words of running text: two Chinese characters count as one word, code blocks, tables and link targets as none."""
    text = _NOT_PROSE.sub(" ", prose)
    return len(_WORD.findall(text)) + (len(_HAN.findall(text)) + 1) // 2


def _size_faults(cells: tuple[Cell, ...]) -> Iterator[tuple[int, str]]:
    if len(cells) > _MAX_CELLS:
        yield cells[_MAX_CELLS].line, f"{len(cells)} cells; the limit is {_MAX_CELLS}"
    for cell in cells:
        lines = len(cell.text.splitlines())
        if cell.kind == "code" and lines > _MAX_CODE_LINES:
            yield cell.line, f"a code cell of {lines} lines; the limit is {_MAX_CODE_LINES}"
        limit = _MAX_EXERCISE_WORDS if cell.exercise else _MAX_WORDS
        words = count_words(cell.text) if cell.kind == "markdown" else 0
        if words > limit:
            yield cell.line, f"a prose cell of {words} words; the limit is {limit}"


def _rhythm_faults(cells: tuple[Cell, ...]) -> Iterator[tuple[int, str]]:
    if not cells or cells[0].kind == "code":
        yield 1, "the lesson does not begin with prose"
    for first, second in pairwise(cells):
        if first.kind == second.kind == "code" and not second.is_check:
            yield second.line, "two code cells in a row, the second not a check; say in prose what the second is for"
    for kind, run in groupby(cells, key=lambda cell: cell.kind):
        prose = list(run)
        if kind == "markdown" and len(prose) > _MAX_PROSE_CELLS:
            yield prose[_MAX_PROSE_CELLS].line, f"{len(prose)} prose cells in a row; the limit is {_MAX_PROSE_CELLS}"


def _measured_faults(cells: tuple[Cell, ...]) -> Iterator[tuple[int, str]]:
    code = [cell for cell in cells if cell.kind == "code"]
    measured = [cell for cell in code if "measured" in cell.tags]
    if 4 * len(measured) > len(code):
        yield measured[0].line, f"{len(measured)} of {len(code)} code cells are measured; at most a quarter may be"
    for cell, after in pairwise([*code, None]):
        if (
            cell is not None
            and "measured" in cell.tags
            and (after is None or "check" not in after.tags or "measured" in after.tags)
        ):
            yield (
                cell.line,
                "a measured cell must be followed by a compared cell tagged check: what holds on any machine",
            )


def _exercise_faults(cells: tuple[Cell, ...]) -> Iterator[tuple[int, str]]:
    for n, cell in enumerate(cells):
        after = cells[n + 1] if n + 1 < len(cells) else None
        if cell.exercise and cell.kind == "markdown":
            if after is None or after.exercise != cell.exercise or after.kind != "code":
                yield cell.line, f"the statement of exercise {cell.exercise} is not followed by its code cell"
            if not cell.text.startswith("#") or cell.exercise not in cell.text.partition("\n")[0]:
                yield (
                    cell.line,
                    f"the statement of exercise {cell.exercise} does not begin with a heading that names it",
                )
        if cell.exercise and cell.kind == "code" and (after is None or after.check != cell.exercise):
            yield cell.line, f"the code of exercise {cell.exercise} is not followed by its check"
        if cell.check and f'check("{cell.check}"' not in cell.text:
            yield cell.line, f'the check of exercise {cell.check} does not call homework.check("{cell.check}", …)'


def _lesson_faults(lesson: Lesson) -> Iterator[tuple[int, str]]:
    for cell in lesson.cells:
        if cell.exercise is None:
            continue
        try:
            exercise = find_exercise(cell.exercise)
        except ConfigError as error:
            yield cell.line, error.what
            continue
        if exercise.lesson != lesson.number:
            yield cell.line, f"exercise {exercise.id} belongs to lesson {exercise.lesson}"
        heading = cell.text.partition("\n")[0]
        if cell.kind == "markdown" and cell.lang in (None, LANGUAGES[0]) and exercise.title not in heading:
            yield cell.line, f"the heading says {heading!r}, homework calls the exercise {exercise.title!r}"


def _parity_faults(lesson: Lesson) -> Iterator[str]:
    """Variants stand next to each other, so a run of marked cells must hold each language once, run after run."""
    wanted = lesson.languages
    for group in _variant_groups(lesson.cells):
        missing = [lang for lang in wanted if lang not in {cell.lang for cell in group}]
        if missing:
            yield f"{lesson.path.name}:{group[0].line}: this prose is missing in: {', '.join(missing)}"


def _variant_groups(cells: tuple[Cell, ...]) -> Iterator[list[Cell]]:
    group: list[Cell] = []
    for cell in cells:
        starts_new = cell.lang is None or cell.lang in {other.lang for other in group}
        if starts_new and group:
            yield group
            group = []
        if cell.lang is not None:
            group.append(cell)
    if group:
        yield group


def notebook_faults(notebook: nbformat.NotebookNode, name: str) -> list[str]:
    """Everything in a built, executed notebook that must not be committed."""
    faults = ["widget state in the metadata"] if "widgets" in notebook.metadata else []
    for n, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        if cell.execution_count is None:
            faults.append(f"code cell {n} was never run, so nothing would be compared")
        for output in cell.outputs:
            faults += [f"code cell {n}: {what}" for what in _output_faults(output)]
    return [f"{name}: {fault}" for fault in faults]


def _output_faults(output: nbformat.NotebookNode) -> Iterator[str]:
    if output.output_type == "error":
        yield f"an error output, {output.ename}: {output.evalue}"
        return
    text = output.get("text", "") + "".join(
        value for kind, value in output.get("data", {}).items() if kind.startswith("text/")
    )
    for what, pattern in _MACHINE.items():
        if found := pattern.search(text):
            yield f"{what} in its output: {found.group()}"
    if output.output_type == "stream" and output.name == "stderr":
        yield f"text on stderr: {text.strip()[:80]!r}"
