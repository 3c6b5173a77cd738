"""How a benchmark tells what it found: the machine and versions it ran on, and JSON written whole or not at all.

Lesson: 2 (the first honest speed comparison)
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmcourse.errors import StorageError

__all__ = ["check_writable", "current_commit", "describe_machine", "is_busy", "processor_name", "write_json"]

_PACKAGES = ("lmcourse", "torch", "transformers", "triton")


def processor_name() -> str:
    """The CPU's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe_machine() -> dict[str, Any]:
    """Hardware, versions, threads, load and date, for the head of a result."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": processor_name(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load_average_1_minute": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }


def current_commit() -> str | None:
    """LMCOURSE_COMMIT where a copy is measured; else the commit of this checkout, with + where files differ."""
    if stated := os.environ.get("LMCOURSE_COMMIT"):
        return stated
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def is_busy(machine: Mapping[str, Any]) -> bool:
    """Whether others took more than half of the cores when `describe_machine` looked: timings would be theirs, too."""
    load, cores = machine.get("load_average_1_minute"), machine.get("cores")
    return load is not None and cores is not None and load > cores / 2


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write through a temporary sibling, so that a full disk leaves no half of a result."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):  # a disk that cannot be written to does not let us remove anything either
            beside.unlink()
        raise _not_written(path, error) from error


def check_writable(path: Path) -> None:
    """StorageError where `write_json` would fail: known before minutes of measuring, not after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("this is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> StorageError:
    next_step = "give a file in a folder that can be written to and has room"
    return StorageError("the result cannot be written", got=error, where=path, next_step=next_step)
