"""The two hubs that a model can be downloaded from, and how each may refuse.

Both libraries resume, show progress and know their own mirrors (HF_ENDPOINT, MODELSCOPE_DOMAIN) and proxies. What they
do badly is fail: on a network that drops packets they retry for minutes. So the hub is first asked for its front page,
in a thread that is left behind after a few seconds, because a name look-up cannot be given a time limit. Out of reach
or offline, a hub still gives what its cache holds.

Lesson: 1 (getting a model)
"""

from __future__ import annotations

import errno
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lmcourse.errors import StorageError

__all__ = ["HUBS", "Hub", "Refusal", "is_offline", "reach"]

_FILES = ["*.safetensors", "*.json", "*.model", "*.tiktoken", "merges.txt", "vocab.txt", "LICENSE*"]
_ANSWER_SECONDS = 6.0


@dataclass(frozen=True)
class Refusal:
    """Why a hub gave no model."""

    reason: str


@dataclass(frozen=True)
class Hub:
    """One hub: where it answers and how its library gets a model, from the network or from its cache only."""

    name: str
    endpoint: Callable[[], str]
    snapshot: Callable[[str, str | None, Path | None, bool], str]  # name, revision, cache folder, cache only → folder

    def fetch(self, name: str, revision: str | None, cache: Path | None) -> Path | Refusal:
        """The model's folder; StorageError if the disk is full, otherwise what went wrong."""
        try:
            barred = "not asked, since " + _offline_names() if is_offline() else reach(self.endpoint())
            folder = self._snapshot(name, revision, cache, cache_only=barred is not None)
        except ImportError as error:
            return Refusal(f"its library is not installed ({error.name}); pip install {error.name}")
        if isinstance(folder, Refusal):
            return Refusal(f"{barred}, and its cache has no such model") if barred else folder
        if not any(folder.glob("*.safetensors")):
            return Refusal("it has the model, but no weights in safetensors; pickled weights are not downloaded")
        return folder

    def _snapshot(self, name: str, revision: str | None, cache: Path | None, *, cache_only: bool) -> Path | Refusal:
        try:
            return Path(self.snapshot(name, revision, cache, cache_only))
        except ImportError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise _disk_full(name, cache, error) from error
            lines = str(error).strip().splitlines()
            return Refusal(f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}")


def is_offline() -> bool:
    """Whether the environment forbids asking hubs."""
    return bool(_offline_names())


def _offline_names() -> str:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return " and ".join(f"{name} is set" for name in names if os.environ.get(name, "").lower() in _YES)


_YES = ("1", "true", "yes", "on")


def reach(url: str, *, limit_seconds: float = _ANSWER_SECONDS) -> str | None:
    """None if a server answers at a URL, however it answers; otherwise why not."""
    problems = [f"no answer from {url} within {limit_seconds:.0f} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=limit_seconds).close()
        except urllib.error.HTTPError as error:
            error.close()
        except (OSError, ValueError) as error:
            problems.append(f"{url} is out of reach ({getattr(error, 'reason', None) or error})")
            return
        problems.clear()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit_seconds)
    return problems[-1] if problems else None


def _disk_full(name: str, cache: Path | None, error: OSError) -> StorageError:
    return StorageError(
        f"the disk is full; {name} was downloaded in part",
        expected="room for the model's weights",
        got=str(error),
        where=cache or "the hub's cache in your home folder",
        next_step="free some space and run again (the download resumes), or choose another disk with download_dir",
    )


def _modelscope_endpoint() -> str:
    from modelscope.hub.utils.utils import get_endpoint

    return str(get_endpoint())


def _modelscope_snapshot(name: str, revision: str | None, cache: Path | None, cache_only: bool) -> str:  # noqa: FBT001
    from modelscope import snapshot_download

    where = {"cache_dir": str(cache) if cache else None, "local_files_only": cache_only}
    return str(snapshot_download(name, revision=revision, allow_patterns=_FILES, **where))


def _hugging_face_endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _hugging_face_snapshot(name: str, revision: str | None, cache: Path | None, cache_only: bool) -> str:  # noqa: FBT001
    from huggingface_hub import snapshot_download

    return str(
        snapshot_download(
            name,
            revision=revision,
            cache_dir=cache,
            local_files_only=cache_only,
            etag_timeout=5,
            allow_patterns=_FILES,
        )
    )


HUBS = (
    Hub("ModelScope", _modelscope_endpoint, _modelscope_snapshot),
    Hub("Hugging Face", _hugging_face_endpoint, _hugging_face_snapshot),
)
