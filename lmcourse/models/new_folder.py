"""new_folder: a folder that appears complete or not at all.

    /models/out.partial-x1y2   ← everything is written and pushed to disk here
          │ one rename
          ▼
    /models/out                ← appears only now; an earlier conversion is moved aside first and removed afterwards

Whatever goes wrong, a full disk say, becomes a StorageError, and what had been written is removed.

Lesson: 2 (conversion)
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmcourse.errors import StorageError

__all__ = ["new_folder", "require_free_space"]


@contextmanager
def new_folder(destination: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `destination` when the block ends without an error."""
    made = [parent for parent in destination.parents if not parent.exists()]
    partial: Path | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}.partial-", dir=destination.parent))
        partial.chmod(0o755)
        yield partial
        for path in (*partial.rglob("*"), partial):
            _sync(path)
        _move_into_place(partial, destination, replace=replace)
    except BaseException as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise _storage_error(error, destination) from error
        raise


def require_free_space(destination: Path, needed_bytes: int) -> None:
    """StorageError unless the destination's disk has this much room."""
    existing = next(parent for parent in destination.parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise StorageError(
            "the disk has too little room",
            expected=f"{needed_bytes / 2**20:.1f} MiB free",
            got=f"{free / 2**20:.1f} MiB free",
            where=existing,
            next_step="free some space, or choose a destination on another disk",
        )


def _move_into_place(partial: Path, destination: Path, *, replace: bool) -> None:
    if not (replace and destination.exists()):
        if destination.exists():
            destination.rmdir()  # OSError unless it is an empty folder
        partial.rename(destination)
        _sync(destination.parent)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.old-", dir=destination.parent))
    destination.rename(aside / "old")
    try:
        partial.rename(destination)
    except OSError:
        (aside / "old").rename(destination)
        aside.rmdir()
        raise
    _sync(destination.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    """Push a file or a folder's entries to the disk, so that a power cut cannot leave the rename and lose the bytes."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _storage_error(error: OSError, destination: Path) -> StorageError:
    return StorageError(
        "the model could not be written, and what had been written was removed",
        expected="a folder that can be written to, with enough room",
        got=error.strerror or str(error),
        where=destination,
        next_step="free some space or choose another destination",
    )
