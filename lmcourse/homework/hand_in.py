"""Handing in: notebooks, evidence, progress and versions → one zip, made in memory and put in its place in one step.

Nothing is judged here. What is missing is named, and the zip is made all the same: half of the homework is better than
none. The notebooks go in as they were saved; a very large one goes without its outputs.

Contract: StorageError if the zip cannot be written, and then there is none; ConfigError if there are no notebooks.

Lesson: 9 (homework)
"""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmcourse
from lmcourse.errors import ConfigError
from lmcourse.homework.evidence import read_evidence, versions
from lmcourse.homework.grading.submission import code_cells
from lmcourse.homework.registry import EXERCISES
from lmcourse.homework.sandbox.cells import CodeCell
from lmcourse.homework.student import homework_folder, read_object, replace_file, student_name
from lmcourse.homework.tasks import TASKS

__all__ = ["HandIn", "find_notebooks", "hand_in", "read_cells"]

_LESSON = re.compile(r"\d\d_\w+\.ipynb")
_LARGE_BYTES = 4 * 2**20
_STUB = "...  # write your answer here"


@dataclass(frozen=True)
class HandIn:
    """What was packed, and what was not there to be packed."""

    path: Path
    student: str
    notebooks: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.notebooks)} notebooks of {self.student}"]
        lines += [f"  missing: {what}" for what in self.missing]
        lines.append("saved notebooks only: what is open in JupyterLab must be saved first (Ctrl-S)")
        return "\n".join(lines)


def find_notebooks(folder: Path | None = None) -> Path:
    """The folder of the lessons: the one given, this one, notebooks/ below it, or beside the package."""
    places = [Path.cwd(), Path.cwd() / "notebooks", Path(lmcourse.__file__).resolve().parents[1] / "notebooks"]
    for place in [folder] if folder is not None else places:
        if place.is_dir() and any(_LESSON.fullmatch(path.name) for path in place.iterdir()):
            return place
    raise ConfigError(
        "no lessons here",
        expected="a folder with notebooks such as 01_environment.ipynb",
        got=str(folder) if folder is not None else "none in this folder or in notebooks/",
        next_step="name the folder: lmcourse homework submit --notebooks FOLDER",
    )


def read_cells(path: Path | None = None) -> tuple[tuple[CodeCell, ...], ...]:
    """The code cells of a notebook, or of every lesson in a folder."""
    if path is None or path.is_dir():
        missing: list[str] = []
        return tuple(code_cells(data) for data in _read_notebooks(find_notebooks(path), missing).values())
    try:
        return (code_cells(path.read_bytes()),)
    except (OSError, ValueError) as error:
        raise ConfigError("this notebook cannot be read", expected="an .ipynb file", got=str(error)) from error


def hand_in(notebooks: Path | None = None, *, student: str | None = None, out: Path | None = None) -> HandIn:
    """Make the zip. `student` is the name on it; `out` its path, without it NAME-homework.zip in the present folder."""
    name = " ".join((student or student_name()).split())[:80]
    folder, own = find_notebooks(notebooks), _own_folder(student)
    if not own.is_dir():  # a name for the zip alone: the work was done under the login name, or LMCOURSE_STUDENT
        own = homework_folder()
    missing: list[str] = []
    saved = _read_notebooks(folder, missing)
    evidence = {task.id: read_evidence(task.id, own) for task in TASKS}
    cells = [cell for data in saved.values() for cell in code_cells(data)]
    missing += _missing_answers(cells)
    for task_id, found in evidence.items():
        absent = [shows for shows, met, _ in found.rows() if not met]
        missing += [f"evidence of task {task_id}: {', '.join(absent)}"] if absent else []
    files = {f"notebooks/{title}": data for title, data in saved.items()}
    files |= {f"evidence/{task_id}.json": _json(found.data) for task_id, found in evidence.items() if found.data}
    files["progress.json"] = _json(read_object(own / "progress.json"))
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    files["submission.json"] = _json({"student": name, "made_at": now, "versions": versions(), "missing": missing})
    safe = re.sub(r"[^\w.-]", "_", name).strip("._") or "student"
    path = out or Path.cwd() / f"{safe}-homework.zip"
    replace_file(path, _zip(files))
    return HandIn(path, name, tuple(saved), tuple(missing))


def _own_folder(student: str | None) -> Path:
    """Where this student worked: under the name that is given, or else as whoever is logged in."""
    named = homework_folder(student)
    return named if named.is_dir() else homework_folder()


def _read_notebooks(folder: Path, missing: list[str]) -> dict[str, bytes]:
    """By name in the zip. Translations lie one folder deeper."""
    found = {}
    for path in sorted([*folder.glob("*.ipynb"), *folder.glob("zh/*.ipynb")]):
        if not _LESSON.fullmatch(path.name) or not path.is_file():
            continue
        title = path.name if path.parent == folder else f"{path.stem}-{path.parent.name}.ipynb"
        data = path.read_bytes()
        try:
            code_cells(data)
        except ValueError as error:
            missing.append(f"{title} cannot be read: {error}; open it in JupyterLab and save it")
            continue
        found[title] = _without_outputs(data) if len(data) > _LARGE_BYTES else data
    return found


def _without_outputs(data: bytes) -> bytes:
    notebook = json.loads(data)
    for cell in notebook["cells"]:
        if cell.get("cell_type") == "code":
            cell["outputs"] = []
    return _json(notebook)


def _missing_answers(cells: list[CodeCell]) -> list[str]:
    own = {cell.exercise: cell.source for cell in cells if cell.exercise}
    found = []
    for exercise in EXERCISES:
        if exercise.id not in own:
            found.append(f"exercise {exercise.id}: no cell of it in these notebooks")
        elif _STUB in own[exercise.id]:
            found.append(f"exercise {exercise.id}: still the stub")
    return found


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")


def _zip(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(name, files[name])
    return packed.getvalue()
