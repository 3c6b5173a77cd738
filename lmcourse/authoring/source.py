"""A lesson's source: a Python file in jupytext's percent format, read into cells.

The source is what people edit and review; notebooks are built from it. A cell's header line says what it is:

    # %% [markdown] lang="en"        prose of one language; its translations stand right below it
    # %% [markdown]                  prose that is the same in every language (a picture, a table of symbols)
    # %% [markdown] exercise="1.1"   the statement of an exercise
    # %% exercise="1.1"              where the student writes; holds # BEGIN SOLUTION … # END SOLUTION
    # %% check="1.1"                 homework.check of that exercise
    # %% tags=["measured"]           prints figures of this machine; followed by a cell that is compared:
    # %% tags=["check"]              states what must hold on any machine

Contract: `read_lesson` raises ConfigError, with the line, for a header it does not understand.

Lesson: 1 (how this course is made)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import jupytext

from lmcourse.errors import ConfigError

__all__ = ["LANGUAGES", "TAGS", "Cell", "Lesson", "read_lesson"]

LANGUAGES = ("en", "zh")
TAGS = ("measured", "gpu", "check", "setup")
_KEYS = ("lang", "tags", "exercise", "check")
_JUPYTEXT_KEYS = ("lines_to_next_cell", "lines_to_end_of_cell_marker")  # blank lines, noted by the reader itself
_NAME = re.compile(r"(\d\d)_[a-z0-9_]+")


@dataclass(frozen=True)
class Cell:
    """One cell as its author wrote it; `line` counts from 1 in the source file."""

    kind: str  # "markdown" or "code"
    text: str
    line: int
    lang: str | None = None
    tags: tuple[str, ...] = ()
    exercise: str | None = None
    check: str | None = None

    @property
    def is_check(self) -> bool:
        """Whether the cell verifies the cell before it, so that it may follow without prose."""
        return self.check is not None or "check" in self.tags


@dataclass(frozen=True)
class Lesson:
    """All cells of a lesson in every language."""

    path: Path
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> int:
        return int(self.name[:2])

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that a prose cell is marked with, in the order of LANGUAGES; English if none is."""
        used = {cell.lang for cell in self.cells}
        return tuple(lang for lang in LANGUAGES if lang in used) or LANGUAGES[:1]

    def cells_in(self, language: str) -> tuple[Cell, ...]:
        """The cells that a reader of one language sees, in order."""
        if language not in self.languages:
            raise ConfigError(
                f"lesson {self.name} is not written in {language!r}",
                expected=" | ".join(self.languages),
                got=language,
                where=self.path.name,
                next_step=f'add a cell `# %% [markdown] lang="{language}"` below each prose cell',
            )
        return tuple(cell for cell in self.cells if cell.lang in (None, language))


def read_lesson(path: Path) -> Lesson:
    """Read one source file; ConfigError names the line of a header or file name that is not understood."""
    if not _NAME.fullmatch(path.stem):
        raise ConfigError("a lesson's file name is not understood", expected="NN_name.py", got=path.name)
    text = path.read_text(encoding="utf-8")
    lines = [n for n, line in enumerate(text.splitlines(), start=1) if line.startswith("# %%")]
    nodes = jupytext.reads(text, fmt="py:percent").cells
    if len(nodes) != len(lines):
        raise ConfigError(
            "a lesson's source has text outside its cells",
            expected="a `# %%` line above every cell, the first right below the jupytext header",
            got=f"{len(nodes)} cells, {len(lines)} `# %%` lines",
            where=path.name,
        )
    return Lesson(path, tuple(_read_cell(node, line, path) for node, line in zip(nodes, lines, strict=True)))


def _read_cell(node: jupytext.NotebookNode, line: int, path: Path) -> Cell:
    where = f"{path.name}:{line}"
    given = {key: value for key, value in node.metadata.items() if key not in _JUPYTEXT_KEYS}
    _require(set(given) <= set(_KEYS), "an unknown key in a cell header", " | ".join(_KEYS), sorted(given), where)
    tags = given.get("tags", [])
    _require(set(tags) <= set(TAGS), "an unknown tag", " | ".join(TAGS), tags, where)
    lang = given.get("lang")
    _require(lang in (None, *LANGUAGES), "an unknown language", " | ".join(LANGUAGES), lang, where)
    kind = node.cell_type
    _require(kind in ("markdown", "code"), "an unknown kind of cell", "markdown or code", kind, where)
    _require(kind == "markdown" or lang is None, "a code cell has a language", "prose cells only", lang, where)
    return Cell(kind, node.source, line, lang, tuple(tags), given.get("exercise"), given.get("check"))


def _require(condition: object, what: str, expected: object, got: object, where: str) -> None:
    if not condition:
        raise ConfigError(what, expected=expected, got=got, where=where)
