"""Lesson → notebook: one edition (student or solution) in one language, not yet executed.

An exercise is written once, with its solution. The student edition replaces each region by its stub:

    def count(config):                      def count(config):
        # BEGIN SOLUTION
        return config["vocab_size"]    →        ...  # write your answer here
        # END SOLUTION

A region's first line may name another stub: `# BEGIN SOLUTION stub: answer = ...`. The statement of an exercise gets
its badge (difficulty, minutes, where hints are) from the exercise's own record, so that notebook and record agree.

Contract: the same lesson gives the same notebook, cell ids included; unexecuted cells have no outputs.

Lesson: 1 (how this course is made)
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import nbformat

from lmcourse.authoring.source import LANGUAGES, Cell, Lesson
from lmcourse.errors import ConfigError
from lmcourse.homework import find_exercise

__all__ = ["EDITIONS", "build_notebook", "solution_code", "student_code"]

EDITIONS = ("student", "solution")
_STUB = "...  # write your answer here"
_REGION = re.compile(
    r"^(?P<indent>[ \t]*)# BEGIN SOLUTION(?:[ \t]+stub:[ \t]*(?P<stub>.+?))?[ \t]*\n"
    r"(?P<body>.*?)"
    r"^[ \t]*# END SOLUTION[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_BADGE = {
    "en": '*Difficulty {dots} · about {minutes} minutes · stuck? `homework.hint("{id}")` opens a hint, three in all*',
    "zh": '*难度 {dots} · 约 {minutes} 分钟 · 卡住了? `homework.hint("{id}")` 会依次给出三条提示*',
}
_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def build_notebook(lesson: Lesson, *, edition: str = "student", language: str = "en") -> nbformat.NotebookNode:
    """The notebook that a reader of this edition and language opens."""
    if edition not in EDITIONS:
        raise ConfigError("an unknown edition", expected=" | ".join(EDITIONS), got=edition)
    seen: Counter[str] = Counter()
    notebook = nbformat.v4.new_notebook(
        cells=[_build_cell(cell, lesson, edition, language, seen) for cell in lesson.cells_in(language)]
    )
    notebook.nbformat_minor = 5
    notebook.metadata = {
        "kernelspec": _KERNEL,
        "language_info": {"name": "python"},
        "lmcourse": {"edition": edition, "language": language, "source": f"source/{lesson.path.name}"},
    }
    return notebook


def _build_cell(cell: Cell, lesson: Lesson, edition: str, language: str, seen: Counter[str]) -> nbformat.NotebookNode:
    if cell.kind == "markdown":
        node = nbformat.v4.new_markdown_cell(_prose(cell, edition, language))
    else:
        edit = student_code if edition == "student" else solution_code
        node = nbformat.v4.new_code_cell(edit(cell, lesson.path.name))
        tags = sorted({*cell.tags, *_nbval_tags(cell)})
        if tags:
            node.metadata["tags"] = tags
        if cell.exercise or cell.check:
            node.metadata["lmcourse"] = {"exercise": cell.exercise} if cell.exercise else {"check": cell.check}
    node.id = _cell_id(cell, seen)
    return node


def _nbval_tags(cell: Cell) -> tuple[str, ...]:
    return ("nbval-ignore-output",) if {"measured", "gpu"} & set(cell.tags) else ()


def _cell_id(cell: Cell, seen: Counter[str]) -> str:
    """An id from the cell's own text: editing one cell leaves the ids of the others alone."""
    digest = hashlib.sha256(f"{cell.kind}:{cell.text}".encode()).hexdigest()[:12]
    seen[digest] += 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def _prose(cell: Cell, edition: str, language: str) -> str:
    # Links are written as seen from notebooks/; solutions and translations lie deeper.
    up = "../" * (1 + (edition == "solution") + (language != LANGUAGES[0]))
    text = re.sub(r"(\]\(|src=\")\.\./", rf"\g<1>{up}", cell.text)
    if cell.exercise is None:
        return text
    exercise = find_exercise(cell.exercise)
    dots = "●" * exercise.difficulty + "○" * (3 - exercise.difficulty)
    badge = _BADGE[language].format(dots=dots, minutes=exercise.minutes, id=exercise.id)
    heading, _, rest = text.partition("\n")
    return f"{heading}\n\n{badge}\n\n{rest.lstrip()}".rstrip()


def student_code(cell: Cell, where: str) -> str:
    """The cell with every solution region replaced by its stub."""
    _check_regions(cell, where)
    return _REGION.sub(lambda found: found["indent"] + (found["stub"] or _STUB), cell.text)


def solution_code(cell: Cell, where: str) -> str:
    """The cell with its solution and without the marks around it."""
    _check_regions(cell, where)
    return _REGION.sub(lambda found: found["body"].rstrip("\n"), cell.text)


def _check_regions(cell: Cell, where: str) -> None:
    regions = len(_REGION.findall(cell.text))
    marks = (cell.text.count("# BEGIN SOLUTION"), cell.text.count("# END SOLUTION"))
    wanted = regions > 0 if cell.exercise else regions == 0
    if marks != (regions, regions) or not wanted:
        raise ConfigError(
            "solution marks do not pair up",
            expected="# BEGIN SOLUTION … # END SOLUTION, in cells with exercise=… and only there",
            got=f"{marks[0]} begin, {marks[1]} end, exercise={cell.exercise!r}",
            where=f"{where}:{cell.line}",
        )
