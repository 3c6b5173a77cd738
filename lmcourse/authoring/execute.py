"""Run a notebook in a clean room, so that committed outputs do not depend on who built them.

The clean room: a new empty home, no network, no visible GPU, one thread, fixed hash seed, UTC, the tools of this
environment first on the path. nbval runs the committed lessons in the same room (conftest.py), and so should agree.

Contract: `execute` returns a new notebook; an error in a cell raises LessonError with the cell and its traceback.
Outputs keep no timings, widget state or path of the temporary home.

Lesson: 1 (how this course is made)
"""

from __future__ import annotations

import copy
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbclient
import nbformat

from lmcourse.errors import LmcourseError

__all__ = ["CELL_TIMEOUT_SECONDS", "HOME_PREFIX", "LessonError", "clean_room", "execute"]

CELL_TIMEOUT_SECONDS = 120
HOME_PREFIX = "lmcourse-home-"  # the sanitizer of nbval looks for this name
_WIDGET = "application/vnd.jupyter.widget-view+json"
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


class LessonError(LmcourseError):
    """A cell of a lesson failed while the lesson was being built."""


@contextmanager
def clean_room(*, gpu: bool = False) -> Iterator[dict[str, str]]:
    """The environment variables of a lesson's kernel; the home in it is removed at the end.

    A run on a GPU keeps the user's settings of this package and of Triton: nothing of its output is compared.
    """
    with tempfile.TemporaryDirectory(prefix=HOME_PREFIX, ignore_cleanup_errors=True) as home:
        dropped = () if gpu else ("LMCOURSE_", "TRITON_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        room = {
            "HOME": home,
            "USERPROFILE": home,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
            "TZ": "UTC",
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "PYTHONUTF8": "1",
            "IPYTHONDIR": str(Path(home, ".ipython")),
        }
        hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
        yield {**kept, **room, **hidden}


def execute(notebook: nbformat.NotebookNode, *, folder: Path, name: str) -> nbformat.NotebookNode:
    """Run every cell with `folder` as working directory; `name` is for error messages."""
    ran = copy.deepcopy(notebook)
    client = nbclient.NotebookClient(
        ran,
        timeout=CELL_TIMEOUT_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )
    with clean_room() as room:
        try:
            client.execute(env=room)
        except nbclient.exceptions.CellExecutionError as error:
            raise _explain(error, ran, name) from None
        except nbclient.exceptions.CellTimeoutError as error:
            limit = f"every cell within {CELL_TIMEOUT_SECONDS} s"
            raise LessonError("a cell of a lesson runs too long", expected=limit, got=str(error), where=name) from None
        for cell in ran.cells:
            _clean(cell, room["HOME"])
    ran.metadata = copy.deepcopy(notebook.metadata)
    return ran


def _explain(error: nbclient.exceptions.CellExecutionError, ran: nbformat.NotebookNode, name: str) -> LessonError:
    failed = next(n for n, cell in enumerate(ran.cells, start=1) if _has_error(cell))
    return LessonError(
        "a cell of a lesson fails",
        expected="every cell runs without an error",
        got=_COLORS.sub("", error.traceback)[-3000:],
        where=f"{name}, cell {failed}",
        next_step="mend the source, or the part of the package that the cell shows",
    )


def _has_error(cell: nbformat.NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", []))


def _clean(cell: nbformat.NotebookNode, home: str) -> None:
    cell.metadata.pop("execution", None)
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            output.text = output.text.replace(home, "~")
            continue
        data = output.get("data", {})
        if len(data) > 1:
            data.pop(_WIDGET, None)
        for kind, value in data.items():
            if isinstance(value, str) and kind.startswith("text/"):
                data[kind] = value.replace(home, "~")
        output.metadata = {}
