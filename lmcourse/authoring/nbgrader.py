"""Lessons for nbgrader, for schools that grade with it: the same source in nbgrader's marks and metadata (schema 3).

    exercise cell     solution between ### BEGIN SOLUTION and ### END SOLUTION, which `generate_assignment` takes out
    check cell        locked and graded; its last line is a number of points, so that part of the cases is part of them

    nbgrader generate_assignment 03_kv_cache      nbgrader autograde 03_kv_cache

nbgrader runs answer and check in one process, so an answer that patches the checker can cheat there; `lmcourse homework
grade` is the one that cannot be. nbgrader itself is not needed to make the notebooks: pip install "lmcourse[nbgrader]".

Lesson: 9 (homework)
"""

from __future__ import annotations

import ast

import nbformat

from lmcourse.authoring.notebook import build_notebook
from lmcourse.authoring.source import Cell, Lesson
from lmcourse.homework import find_exercise

__all__ = ["nbgrader_bytes", "nbgrader_notebook"]

_SCHEMA = 3


def nbgrader_notebook(lesson: Lesson, *, language: str = "en") -> nbformat.NotebookNode:
    """The source notebook of an assignment, not executed."""
    notebook = build_notebook(lesson, edition="solution", language=language)
    for cell, node in zip(lesson.cells_in(language), notebook.cells, strict=True):
        if cell.kind == "code" and cell.exercise:
            node.source = cell.text.replace("# BEGIN SOLUTION", "### BEGIN SOLUTION")
            node.source = node.source.replace("# END SOLUTION", "### END SOLUTION")
            node.metadata["nbgrader"] = _metadata(_id("exercise", cell.exercise), solution=True)
        elif cell.check:
            points = find_exercise(cell.check).points
            node.source = _graded(cell, points)
            node.metadata["nbgrader"] = {**_metadata(_id("check", cell.check), solution=False), "points": points}
    return notebook


def _id(kind: str, exercise_id: str) -> str:
    """nbgrader's ids have letters, digits, dashes and underscores."""
    return f"{kind}-{exercise_id.replace('.', '-')}"


def nbgrader_bytes(notebook: nbformat.NotebookNode) -> bytes:
    """Its bytes on disk. The canonical form of committed lessons would drop nbgrader's metadata."""
    nbformat.validate(notebook)
    return bytes(nbformat.writes(notebook), "utf-8")


def _metadata(grade_id: str, *, solution: bool) -> dict[str, object]:
    return {
        "schema_version": _SCHEMA,
        "grade_id": grade_id,
        "cell_type": "code",
        "grade": not solution,
        "locked": not solution,
        "solution": solution,
        "task": False,
    }


def _graded(cell: Cell, points: int) -> str:
    """The check, which is the cell's last statement, gets a name, is shown, and becomes points."""
    check = ast.parse(cell.text).body[-1]
    lines = cell.text.rstrip().splitlines()
    before, call = lines[: check.lineno - 1], lines[check.lineno - 1 :]
    return "\n".join([*before, "score = " + "\n".join(call), "print(score)", f"{points} * float(score)"])
