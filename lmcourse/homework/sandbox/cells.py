"""A notebook's code cells → the code that one answer needs: its own cells, and of the others what they take from them.

    import torch, transformers      taken: the answer uses `torch`
    pipe = pipeline("tiny-chat")    left out: nothing that the answer uses is made here
    def helper(x): …                taken: the answer calls it
    # exercise 3.3                  the answer's cell, run whole
    def attend(q, blocks): …

So no model is loaded for an answer that needs none, and helpers in cells of one's own work. Nothing is run here.

Contract: SyntaxError only if the answer's own cell cannot be read; other cells that cannot be read are left out.

Lesson: 9 (how grading is made safe)
"""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Answer", "CodeCell", "find_answer"]

_MAGIC = re.compile(r"^(?P<margin>\s*)(?:[%!?].*|[\w.\[\]]+\s*=\s*[%!].*|[\w.]+\?{1,2})$", re.MULTILINE)
_TIMING = re.compile(r"^%%(?:time|timeit|capture)\b.*\n")


@dataclass(frozen=True)
class CodeCell:
    """A code cell; `exercise` is what its metadata says, if anything."""

    source: str
    exercise: str | None = None


@dataclass(frozen=True)
class Answer:
    """Statements to try first, each for itself, and then the cells that have to run."""

    before: tuple[str, ...]
    cells: tuple[str, ...]


def find_answer(cells: Iterable[CodeCell], exercise_id: str, name: str) -> Answer | None:
    """The cells of that exercise, and any that define `name`; None if there are none."""
    wanted = re.compile(rf"^(?:async )?(?:def|class) {re.escape(name)}\b|^{re.escape(name)}\s*[:=]", re.MULTILINE)
    all_cells = list(cells)
    own = [n for n, cell in enumerate(all_cells) if cell.exercise == exercise_id or wanted.search(cell.source)]
    if not own:
        return None
    sources = tuple(_python(all_cells[n].source) for n in own)
    for source in sources:
        ast.parse(source)
    others: list[ast.stmt] = []
    for n, cell in enumerate(all_cells[: own[-1]]):
        if n not in own:
            others += _readable(_python(cell.source))
    return Answer(tuple(_needed(others, sources)), sources)


def _python(source: str) -> str:
    """The cell without magics and shell commands."""
    source = _TIMING.sub("", source)
    return "" if source.startswith("%%") else _MAGIC.sub(r"\g<margin>pass", source)


def _readable(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _needed(others: list[ast.stmt], sources: Iterable[str]) -> list[str]:
    """Of the statements those that make a name which is used, in their order."""
    used = {name for source in sources for name in _taken_from_outside(source)}
    texts = [ast.unparse(statement) for statement in others]
    taken: set[int] = set()
    growing = True
    while growing:
        growing = False
        for n, statement in enumerate(others):
            if n not in taken and not isinstance(statement, ast.Expr) and _bound(statement) & used:
                taken.add(n)
                used |= _taken_from_outside(texts[n])
                growing = True
    return [texts[n] for n in sorted(taken)]


def _taken_from_outside(source: str) -> set[str]:
    """Names that code looks up in the notebook: not its arguments, not its own variables."""
    names: set[str] = set()
    todo = [symtable.symtable(source, "<notebook>", "exec")]
    while todo:
        scope = todo.pop()
        is_module = scope.get_type() == "module"
        made = {symbol.get_name() for symbol in scope.get_symbols() if is_module and symbol.is_imported()}
        names |= {
            symbol.get_name()
            for symbol in scope.get_symbols()
            if symbol.is_referenced() and (is_module or symbol.is_global()) and symbol.get_name() not in made
        }
        todo += scope.get_children()
    return names


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement makes in the notebook's own scope; for `import *` any."""
    names: set[str] = set()
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        todo += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.Lambda)]
    return names
