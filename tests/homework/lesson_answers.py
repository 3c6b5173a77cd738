"""Answers of the course as the lessons hold them: the solution, the stub, and what stands around them."""

from __future__ import annotations

import ast
import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcourse.authoring.notebook import build_notebook, solution_code, student_code
from lmcourse.authoring.project import Project
from lmcourse.homework import EXERCISES, Exercise
from lmcourse.homework.sandbox.cells import CodeCell, find_answer

ROOT = Path(__file__).parents[2]
Answer = Any


@dataclass(frozen=True)
class Written:
    """An exercise as its lesson has it; `before` is what the notebook gives to its cell."""

    exercise: Exercise
    solution: str
    stub: str
    before: tuple[str, ...]

    def compile(self, source: str) -> Answer:
        """The function that a cell defines, in the namespace that the notebook would give it."""
        namespace: dict[str, Any] = {"__name__": "__main__"}
        for statement in self.before:
            with contextlib.suppress(Exception):
                exec(compile(statement, "<notebook>", "exec"), namespace)
        exec(compile(source, "<answer>", "exec"), namespace)
        return namespace[self.exercise.function]


@functools.cache
def written_answers() -> dict[str, Written]:
    """By exercise id, in the order of the lessons."""
    found = {}
    by_id = {exercise.id: exercise for exercise in EXERCISES}
    for lesson in Project(ROOT).lessons():
        cells = [cell for cell in lesson.cells_in(lesson.languages[0]) if cell.kind == "code"]
        sources = [CodeCell(solution_code(cell, lesson.name), cell.exercise) for cell in cells]
        for cell in cells:
            if cell.exercise in by_id:
                exercise = by_id[cell.exercise]
                answer = find_answer(sources, exercise.id, exercise.function)
                assert answer is not None
                own = (solution_code(cell, lesson.name), student_code(cell, lesson.name))
                found[exercise.id] = Written(exercise, *own, answer.before)
    return found


@functools.cache
def lesson_notebooks(edition: str) -> dict[str, Any]:
    """Unexecuted notebooks of all lessons, by file name."""
    return {f"{lesson.name}.ipynb": build_notebook(lesson, edition=edition) for lesson in Project(ROOT).lessons()}


def body_of(source: str, function: str) -> ast.FunctionDef:
    """The function's own tree."""
    return next(
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == function
    )
