"""One thread for the small matrices of these tests, and a walk over the imports inside zoo."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lmcourse.zoo

_ZOO = Path(lmcourse.zoo.__file__).parent


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _imports(module: str) -> set[str]:
    """Modules of lmcourse.zoo that a module of it imports, anywhere in its text."""
    path = _ZOO / (module.removeprefix("lmcourse.zoo").strip(".").replace(".", "/") or "__init__")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("lmcourse.zoo") and _exists(name)}


def _exists(module: str) -> bool:
    path = _ZOO / module.removeprefix("lmcourse.zoo").strip(".").replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _closure(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _imports(name)
    return seen


@pytest.fixture
def zoo_modules_of() -> Callable[[str], set[str]]:
    """The modules of zoo that a module of it imports, directly or not, with itself."""
    return _closure
