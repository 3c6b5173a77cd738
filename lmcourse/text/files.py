"""Reading a model folder's small files: only regular ones, only whole ones, each failure with the way out of it.

A clone without git-lfs holds pointer files of three lines in place of weights and tokenizers; they are told apart from
damage, because the cure differs. Pipes and devices are never opened, since reading them may not return.

Lesson: 1 (getting a model)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmcourse.errors import CheckpointError

__all__ = ["is_lfs_pointer", "read_json_object", "require_file"]

_LFS_HEAD = b"version https://git-lfs.github.com/spec/"


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is git-lfs's stand-in for content that was not fetched (git-lfs spec v1, first line)."""
    if not path.is_file() or path.stat().st_size > 1024:
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS_HEAD)) == _LFS_HEAD


def require_file(path: Path) -> Path:
    """The path itself if it is a regular file with its own content, else CheckpointError."""
    if not path.is_file():
        raise CheckpointError(
            f"the model has no usable {path.name}",
            expected="a regular file",
            got="something that is not a file" if path.exists() else "nothing of that name",
            where=path.parent,
            next_step="copy the model again, or point to the folder that holds all of its files",
        )
    if is_lfs_pointer(path):
        raise CheckpointError(
            f"{path.name} is a git-lfs pointer, not the file itself",
            expected="the content of the file",
            got=f"{path.stat().st_size} bytes that say where git-lfs would fetch it",
            where=path,
            next_step=f"run `git lfs pull` in {path.parent}",
        )
    return path


def read_json_object(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A JSON file that holds one object; {} for an optional file that is not there."""
    if optional and not path.exists():
        return {}
    try:
        value = json.loads(require_file(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} is not valid JSON",
            expected="one JSON object in UTF-8",
            got=f"{path.stat().st_size} bytes; {error}",
            where=path,
            next_step="copy the file again; a download may have been cut off",
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path.name} does not hold a JSON object",
            expected='an object such as {"key": "value"}',
            got=type(value).__name__,
            where=path,
            next_step="copy the file again from where the model was published",
        )
    return value
