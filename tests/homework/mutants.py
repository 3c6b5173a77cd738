"""Wrong answers made from a right one: one change each in its syntax tree, or one change in what it returns."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lesson_answers import Written

Make = Callable[[ast.AST], Iterator[tuple[str, ast.AST]]]

_OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Add, ast.FloorDiv), ast.FloorDiv: (ast.Mult, ast.Mod),
    ast.Div: (ast.Mult,), ast.Mod: (ast.FloorDiv,), ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,),
    ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.Pow: (ast.Mult,), ast.Lt: (ast.LtE,), ast.LtE: (ast.Lt,),
    ast.Gt: (ast.GtE,), ast.GtE: (ast.Gt,), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.And: (ast.Or,), ast.Or: (ast.And,),
}  # fmt: skip
_NAMES = {
    "min": "max", "max": "min", "argmax": "argmin", "argmin": "argmax", "sum": "mean", "mean": "sum",
    "append": "remove", "exp": "abs", "sqrt": "abs", "sorted": "list", "maximum": "minimum", "minimum": "maximum",
    "abs": "neg",
    "startswith": "endswith", "removeprefix": "removesuffix", "floor": "ceil", "ceil": "floor", "stack": "cat",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A wrong answer, and what was changed."""

    what: str
    answer: Callable[..., Any]


def tree_mutants(written: Written) -> Iterator[Mutant]:
    """Each has one node of the answer's cell changed; those that do not compile are left out."""
    tree = _bare(ast.parse(written.solution))
    nodes = list(ast.walk(tree))
    for place, node in enumerate(nodes):
        for what, replacement in _changes(node):
            mutated = copy.deepcopy(tree)
            _put(mutated, place, replacement)
            source = ast.unparse(ast.fix_missing_locations(mutated))
            try:
                answer = written.compile(source)
            except Exception:
                continue
            line = getattr(node, "lineno", 0)
            yield Mutant(f"line {line}: {what}", answer)


def _bare(tree: ast.Module) -> ast.Module:
    """Without annotations and docstrings, whose change is none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in (*node.args.args, *node.args.kwonlyargs):
                argument.annotation = None
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            node.annotation = ast.Name("object", ast.Load())
    return tree


def _put(tree: ast.Module, place: int, replacement: ast.AST) -> None:
    """The node at a place of ast.walk's order becomes another one."""
    target = list(ast.walk(tree))[place]
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, replacement)
                return
            if isinstance(value, list) and any(item is target for item in value):
                setattr(parent, name, [replacement if item is target else item for item in value])
                return


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for kind in _OPERATORS.get(type(node), ()):
        yield f"{type(node).__name__} → {kind.__name__}", kind()
    for kinds, change in _CHANGES:
        if isinstance(node, kinds):
            yield from change(node)


def _unsigned(node: Any) -> Iterator[tuple[str, ast.AST]]:
    yield f"{ast.unparse(node)} without its sign", copy.deepcopy(node.operand)


def _negated(node: Any) -> Iterator[tuple[str, ast.AST]]:
    turned = copy.deepcopy(node)
    turned.test = ast.UnaryOp(ast.Not(), copy.deepcopy(node.test))
    yield f"not {ast.unparse(node.test)}", turned


def _left_out(node: Any) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.AugAssign) or isinstance(node.value, ast.Call):
        yield f"left out: {ast.unparse(node)}", ast.Pass()


def _overwritten(node: Any) -> Iterator[tuple[str, ast.AST]]:
    yield f"= in place of {ast.unparse(node)}", ast.Assign([copy.deepcopy(node.target)], copy.deepcopy(node.value))


def _goes_on(node: Any) -> Iterator[tuple[str, ast.AST]]:
    other = ast.Continue if isinstance(node, ast.Break) else ast.Break
    yield f"{type(node).__name__} → {other.__name__}", other()


def _turned_round(node: Any) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node.ctx, ast.Load) and len(node.elts) > 1:
        turned = type(node)(list(reversed(copy.deepcopy(node.elts))), ast.Load())
        yield f"turned round: {ast.unparse(node)[:40]}", turned


def _halved(node: Any) -> Iterator[tuple[str, ast.AST]]:
    yield f"left of {ast.unparse(node)[:40]} alone", copy.deepcopy(node.left)
    yield f"right of {ast.unparse(node)[:40]} alone", copy.deepcopy(node.right)


def _constants(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    value = node.value
    if isinstance(value, bool):
        yield f"{value} → {not value}", ast.Constant(not value)
    elif isinstance(value, int | float):
        yield f"{value} → {value + 1}", ast.Constant(value + 1)
        yield f"{value} → {value - 1}", ast.Constant(value - 1)
    elif isinstance(value, str) and value and not value[0].isupper() and len(value) < 60:
        yield f"{value!r} less its end", ast.Constant(value[:-1])


def _renamed(node: ast.Name | ast.Attribute) -> Iterator[tuple[str, ast.AST]]:
    name = node.id if isinstance(node, ast.Name) else node.attr
    if name not in _NAMES or not isinstance(node.ctx, ast.Load):
        return
    changed = copy.deepcopy(node)
    if isinstance(changed, ast.Name):
        changed.id = _NAMES[name]
    else:
        changed.attr = _NAMES[name]
    yield f"{name} → {_NAMES[name]}", changed


def _slices(node: ast.Slice) -> Iterator[tuple[str, ast.AST]]:
    if node.lower is not None:
        later = ast.BinOp(copy.deepcopy(node.lower), ast.Add(), ast.Constant(1))
        yield f"{ast.unparse(node)} begins one later", ast.Slice(later, node.upper, node.step)
    if node.upper is not None:
        sooner = ast.BinOp(copy.deepcopy(node.upper), ast.Sub(), ast.Constant(1))
        yield f"{ast.unparse(node)} ends one sooner", ast.Slice(node.lower, sooner, node.step)


_CHANGES: tuple[tuple[Any, Callable[[Any], Iterator[tuple[str, ast.AST]]]], ...] = (
    (ast.Constant, _constants),
    (ast.Name | ast.Attribute, _renamed),
    (ast.UnaryOp, _unsigned),
    (ast.If | ast.IfExp | ast.While, _negated),
    (ast.AugAssign | ast.Expr, _left_out),
    (ast.AugAssign, _overwritten),
    (ast.Break | ast.Continue, _goes_on),
    (ast.Tuple | ast.List, _turned_round),
    (ast.Slice, _slices),
    (ast.BinOp, _halved),
)


def result_mutants(answer: Callable[..., Any], visible: Any) -> Iterator[Mutant]:
    """The right answer, changed after it came; and what was right for the case that everybody sees."""
    yield Mutant("hard-coded to the visible case", lambda *arguments: visible)
    yield Mutant("its arguments", lambda *arguments: arguments[0])
    yield Mutant("nothing at all", lambda *arguments: print(answer(*arguments)))
    for what, change in (
        ("off by one", _off_by_one), ("turned round", _turned), ("as text", _as_text), ("cut short", _shorter),
        ("in a list", lambda value: [value]), ("another dtype", _other_dtype), ("transposed", _transposed),
        ("zeros", _zeros),
    ):  # fmt: skip
        yield Mutant(f"result {what}", lambda *arguments, change=change: change(answer(*arguments)))


class NoSuchChangeError(Exception):
    """The result is of a kind that this change leaves as it is; the mutant is none."""


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(_each(part, change) for part in value)
    return change(value)


def _is_tensor(value: Any) -> bool:
    return type(value).__name__ == "Tensor"


def _off_by_one(value: Any) -> Any:
    def change(part: Any) -> Any:
        if isinstance(part, bool):
            return not part
        if isinstance(part, list):
            return [*part, part[-1] if part else 0]
        if isinstance(part, dict):
            return {**part, "one more": 0}
        return part + ("x" if isinstance(part, str) else 1)

    return _each(value, change)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        raise NoSuchChangeError
    return str(value)


def _turned(value: Any) -> Any:
    if _is_tensor(value):
        return value.flip(0)
    if isinstance(value, str | tuple | list) and value[::-1] != value:
        return value[::-1]
    raise NoSuchChangeError


def _shorter(value: Any) -> Any:
    if isinstance(value, dict) and value:
        return dict(list(value.items())[:-1])
    if (isinstance(value, str | tuple | list) and value) or (_is_tensor(value) and value.ndim):
        return value[:-1]
    raise NoSuchChangeError


def _other_dtype(value: Any) -> Any:
    def change(part: Any) -> Any:
        if not _is_tensor(part):
            raise NoSuchChangeError
        return part.int()  # float64 in place of float32 is right where rounding is allowed

    return _each(value, change)


def _transposed(value: Any) -> Any:
    def change(part: Any) -> Any:
        if not _is_tensor(part) or part.ndim != 2 or part.shape[0] == part.shape[1]:
            raise NoSuchChangeError
        return part.T

    return _each(value, change)


def _zeros(value: Any) -> Any:
    return _each(value, lambda part: part * 0 if not isinstance(part, str | dict | list) else type(part)())
