"""Where lessons live in the repository, and the two things done with all of them: build and check.

    notebooks/source/NN_name.py            what people edit
    notebooks/[LANGUAGE/]NN_name.ipynb     what students open, executed; English has no folder
    instructor/solutions/[LANGUAGE/]…      the same with every exercise solved, executed

Contract: `build` writes a notebook only after it ran without error and broke no rule; each file is replaced in one
step.

Lesson: 1 (how this course is made)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import nbformat

from lmcourse.authoring.canonical import canonical_bytes, fixed, read_notebook
from lmcourse.authoring.execute import LessonError, execute
from lmcourse.authoring.notebook import EDITIONS, build_notebook
from lmcourse.authoring.rules import find_faults, notebook_faults
from lmcourse.authoring.source import Lesson, read_lesson
from lmcourse.errors import ConfigError

__all__ = ["Project"]

_FOLDERS = {"student": Path("notebooks"), "solution": Path("instructor", "solutions")}


@dataclass(frozen=True)
class Project:
    """A checkout of the course's repository."""

    root: Path

    @classmethod
    def find(cls, start: Path) -> Project:
        """The project that `start` lies in."""
        for folder in (start.resolve(), *start.resolve().parents):
            if (folder / "notebooks" / "source").is_dir():
                return cls(folder)
        raise ConfigError(
            "no course repository here",
            expected="a folder with notebooks/source in it, or a folder below one",
            got=start.name,
            next_step="cd into the repository, or give --root",
        )

    def lessons(self, name: str | None = None) -> list[Lesson]:
        """All lessons in order, or the one whose name or number is `name`."""
        paths = sorted((self.root / "notebooks" / "source").glob("[0-9][0-9]_*.py"))
        chosen = [p for p in paths if name in (None, p.stem, p.stem[:2], p.stem[:2].lstrip("0"))]
        if not chosen:
            raise ConfigError("no such lesson", expected=" | ".join(p.stem for p in paths), got=name)
        return [read_lesson(path) for path in chosen]

    def notebook_path(self, lesson: Lesson, *, edition: str, language: str) -> Path:
        """Where the built notebook of this edition and language lies."""
        folder = self.root / _FOLDERS[edition]
        return (folder if language == "en" else folder / language) / f"{lesson.name}.ipynb"

    def executed(self, lesson: Lesson, *, edition: str, language: str) -> nbformat.NotebookNode:
        """A fresh build, run in its own folder; LessonError if its outputs may not be committed."""
        path = self.notebook_path(lesson, edition=edition, language=language)
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.relative_to(self.root).as_posix()
        notebook = execute(build_notebook(lesson, edition=edition, language=language), folder=path.parent, name=name)
        if faults := notebook_faults(notebook, name):
            raise LessonError(
                "a lesson's outputs may not be committed", expected="no faults", got="\n    ".join(faults)
            )
        return notebook

    def build(
        self, lesson: Lesson, *, editions: tuple[str, ...] = EDITIONS, languages: tuple[str, ...] = ()
    ) -> list[Path]:
        """Build and run the lesson; returns the files that were written."""
        if faults := find_faults(lesson):
            raise LessonError("a lesson breaks the rules", expected="no faults", got="\n    ".join(faults))
        written = []
        for language in languages or lesson.languages:
            for edition in editions:
                path = self.notebook_path(lesson, edition=edition, language=language)
                _replace(path, canonical_bytes(self.executed(lesson, edition=edition, language=language)))
                written.append(path)
        return written

    def check(self, lesson: Lesson, *, fix: bool = False) -> list[str]:
        """Faults of the source and of the committed notebooks, without running anything; `fix` mends their form."""
        faults = find_faults(lesson)
        for language in lesson.languages:
            for edition in EDITIONS:
                path = self.notebook_path(lesson, edition=edition, language=language)
                name = path.relative_to(self.root).as_posix()
                if not path.exists():
                    faults.append(f"{name}: missing; build the lesson")
                    continue
                if fix:
                    _replace(path, canonical_bytes(fixed(read_notebook(path.read_bytes()))))
                fresh = build_notebook(lesson, edition=edition, language=language)
                faults += _committed_faults(path.read_bytes(), fresh, name)
        return faults


def _committed_faults(data: bytes, fresh: nbformat.NotebookNode, name: str) -> list[str]:
    notebook = read_notebook(data)
    faults = notebook_faults(notebook, name)
    if canonical_bytes(fixed(notebook)) != data:
        faults.append(f"{name}: not in canonical form; run check --fix")
    unrun = fixed(notebook)
    for cell in unrun.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if canonical_bytes(unrun) != canonical_bytes(fresh):
        faults.append(f"{name}: differs from its source; build the lesson")
    return faults


def _replace(path: Path, data: bytes) -> None:
    sibling = path.with_name(f".{path.name}.writing")
    try:
        sibling.write_bytes(data)
        os.replace(sibling, path)
    finally:
        sibling.unlink(missing_ok=True)
