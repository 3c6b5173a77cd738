"""claim_folder: a temporary folder that is not left behind, even by a process that was killed.

    lmcourse-crew-x7f3/owner   locked by its process as long as that lives      the system unlocks it, however it ended
    lmcourse-crew-q1aa/owner   unlocked: nobody's                               removed by the next one who claims

The idea: a lock ends with its owner, while a process number may be somebody else's by then, or of another container.

Lesson: 9 (more than one GPU)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

__all__ = ["claim_folder"]

_PREFIX = "lmcourse-crew-"


def claim_folder() -> tuple[Path, BinaryIO]:
    """A new folder, and the claim to it: ours while it is open. Removes one's own that nobody claims any more."""
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    claim = (folder / "coming").open("wb")
    fcntl.flock(claim, fcntl.LOCK_EX)
    (folder / "coming").rename(folder / "owner")  # from now on others may look whether it is locked
    return folder, claim


def _sweep(parent: Path) -> None:
    """Whoever cannot be looked at is left alone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / "owner").open("rb") as claim:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it has an owner
                shutil.rmtree(folder, ignore_errors=True)
