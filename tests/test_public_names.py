"""Public names are complete, sorted and importable; folders only re-export."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import lmcourse

PACKAGE = Path(lmcourse.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")
FOLDERS = sorted(path for path in MODULES if path.name == "__init__.py")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def declared_in(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


def defined_in(tree: ast.Module) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


def order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by the alphabet: ruff's order of __all__."""
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_declares_its_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    declared = declared_in(tree)
    if declared is None:
        assert not defined_in(tree), f"{name_of(path)} defines public names but no __all__"
        return
    assert declared == sorted(declared, key=order)
    assert len(declared) == len(set(declared))
    missing = defined_in(tree) - set(declared)
    assert not missing, (
        f"{name_of(path)} defines {sorted(missing)}, which __all__ does not name; export or prefix with _"
    )


@pytest.mark.parametrize("path", FOLDERS, ids=name_of)
def test_declared_names_can_be_imported(path: Path) -> None:
    module = importlib.import_module(name_of(path))
    for name in getattr(module, "__all__", ()):
        assert hasattr(module, name), f"{name_of(path)}.{name}"


@pytest.mark.parametrize("path", [p for p in FOLDERS if p.parent.name != "bundled"], ids=name_of)
def test_folder_only_reexports(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name_of(path)} does not say which file holds what"
    if path.parent == PACKAGE:
        return  # the package resolves its names lazily, so that `import lmcourse` needs no torch
    for node in tree.body[1:]:
        allowed = isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign)
        assert allowed, f"{name_of(path)}, line {node.lineno}: something other than a re-export"


def test_the_lesson_scripts_find_their_names() -> None:
    from lmcourse import ChatTemplateConfig, GenerationConfig, TurbomindEngineConfig, pipeline

    assert callable(pipeline)
    assert all(callable(config) for config in (ChatTemplateConfig, GenerationConfig, TurbomindEngineConfig))
