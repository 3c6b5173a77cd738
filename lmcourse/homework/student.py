"""Where a student's work is kept: one folder each, every file replaced in one step.

    ~/lmcourse-homework/NAME/progress.json          what was tried, and how it went
    ~/lmcourse-homework/NAME/evidence/TASK.json     what the package saw of a task of lesson 9

`LMCOURSE_HOMEWORK` names another folder than ~/lmcourse-homework, `LMCOURSE_STUDENT` another student than the login.

Contract: a reader never sees half a file. A file that is damaged is set aside under another name, never overwritten.

Lesson: 9 (homework)
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmcourse.errors import StorageError

__all__ = ["homework_folder", "locked", "read_object", "replace_file", "student_name", "write_object"]


def student_name() -> str:
    """LMCOURSE_STUDENT, or the login name, or `student`."""
    if named := " ".join(os.environ.get("LMCOURSE_STUDENT", "").split()):
        return named[:80]
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name, as in some containers
        return "student"


def homework_folder(student: str | None = None) -> Path:
    """The folder of this student, which may not exist yet."""
    root = Path(os.environ.get("LMCOURSE_HOMEWORK") or Path.home() / "lmcourse-homework").expanduser()
    name = re.sub(r"[^\w.@ -]", "_", student or student_name()).strip(". ") or "student"
    return root / name


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; {} if there is none. What cannot be read is set aside as NAME.damaged-N."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    except OSError as error:
        raise _storage_error(path, error, "read") from error
    if isinstance(found, dict):
        return found
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    os.replace(path, aside)
    return {}


def write_object(path: Path, value: dict[str, Any]) -> None:
    """Replace a file by a JSON object, in one step."""
    replace_file(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside its place and move it there; StorageError leaves things as they were."""
    beside: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except OSError as error:
        if beside is not None:
            with contextlib.suppress(OSError):
                os.unlink(beside)
        raise _storage_error(path, error, "written") from error


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _storage_error(path: Path, error: OSError, verb: str) -> StorageError:
    return StorageError(
        f"a file of the homework cannot be {verb}: {error.strerror}",
        where=str(path),
        next_step="free some space, or name another folder in LMCOURSE_HOMEWORK",
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two notebooks of one student write one after the other, where the system can lock files."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "wb")  # noqa: SIM115 (closed below, which frees it)
    except OSError as error:
        raise _storage_error(folder, error, "written") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
