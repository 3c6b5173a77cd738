"""How pytest runs the lessons: strict nbval in the same clean room that they were built in.

`pytest --nbval notebooks` is enough; kernel, time limit and sanitizer are set here. Cells tagged gpu are skipped unless
`--lessons-on-gpu` is given, which shows the device to the kernels and is meant for a machine with CUDA.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_IN_ROOM = pytest.StashKey[bool]()
SANITIZER = Path(__file__).parent / "tests" / "nbval_sanitizer.cfg"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lessons-on-gpu", action="store_true", help="let lessons see the GPU and run their gpu cells")
    parser.addoption("--screenshots-to", type=Path, help="folder where the browser tests put the README's pictures")


def pytest_configure(config: pytest.Config) -> None:
    if not (getattr(config.option, "nbval", False) or getattr(config.option, "nbval_lax", False)):
        return
    from lmcourse.authoring.execute import CELL_TIMEOUT_SECONDS

    config.option.nbval_current_env = True
    config.option.nbval_cell_timeout = min(config.option.nbval_cell_timeout, CELL_TIMEOUT_SECONDS)
    config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(SANITIZER)


def is_lesson_cell(item: pytest.Item) -> bool:
    return hasattr(item, "cell") and hasattr(item, "cell_num")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("lessons_on_gpu"):
        return
    for item in items:
        if is_lesson_cell(item) and "gpu" in item.cell.metadata.get("tags", []):  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.skip(reason="a gpu cell; run with --lessons-on-gpu on a machine with CUDA"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """A lesson's kernel starts while its first cell is set up, and takes its environment from this process."""
    if not is_lesson_cell(item) or _IN_ROOM in item.parent.stash:  # type: ignore[union-attr]
        yield
        return
    from lmcourse.authoring.execute import clean_room

    with contextlib.ExitStack() as room:
        variables = room.enter_context(clean_room(gpu=item.config.getoption("lessons_on_gpu")))
        with pytest.MonkeyPatch.context() as patch:
            for name in set(os.environ) - set(variables):
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, value)
            yield
        item.parent.stash[_IN_ROOM] = True  # type: ignore[union-attr]
        item.parent.addfinalizer(room.pop_all().close)  # type: ignore[union-attr]
