"""Reading a model's small files: regular files only, JSON objects only, every failure a CheckpointError.

Lesson: 2 (what a format holds)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmcourse.errors import CheckpointError, ModelNotFoundError

__all__ = ["read_json", "reading", "require_folder", "require_regular_file"]

_MOST_JSON_BYTES = 64 * 2**20  # a large index.json has about 1 MB


def require_folder(folder: Path) -> Path:
    """The folder with ~ expanded; ModelNotFoundError if there is none."""
    try:
        folder = Path(folder).expanduser()
        if folder.is_dir():
            return folder
        got = "a file" if folder.exists() else "nothing"
    except (OSError, RuntimeError) as error:  # a path too long, not permitted, or ~ of nobody
        got = str(error)
    raise ModelNotFoundError(
        "there is no model folder here",
        expected="a folder with config.json and *.safetensors, or one written by `lmcourse convert`",
        got=got,
        where=folder,
        next_step="check the path; a link may point to a folder that was moved",
    )


def require_regular_file(path: Path) -> Path:
    """The path, if it (or what a link leads to) is a regular file; devices and pipes could block or never end."""
    if path.is_file():
        return path
    exists = path.exists()
    raise CheckpointError(
        f"{path.name} is {'not a regular file' if exists else 'missing'}",
        expected="a regular file",
        got="a folder, pipe or device" if exists else "a broken link" if path.is_symlink() else "nothing",
        where=path,
        next_step="get this file again; a download that stopped early leaves files out",
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the system's refusal to read a file into a CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path.name} cannot be read",
            expected="a file that you may read, on a disk that works",
            got=error.strerror or str(error),
            where=path,
            next_step="check its permissions (ls -l) and the disk it is on",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds."""
    size = require_regular_file(path).stat().st_size
    if size > _MOST_JSON_BYTES:
        raise CheckpointError(
            f"{path.name} is too big", expected="a few kilobytes of JSON", got=f"{size} bytes", where=path
        )
    with reading(path):
        content = path.read_bytes()
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} is not valid JSON",
            expected="one JSON object in UTF-8",
            got=str(error) or "an empty file",
            where=path,
            next_step="get this file again",
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path.name} is not a JSON object", expected="{...}", got=type(value).__name__, where=path
        )
    return value
