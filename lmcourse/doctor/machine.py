"""Checks of the machine: CPU and memory within what its container may use, disk where models live, ports.

A container's limits are in its control group, not in /proc/meminfo: a "64 GiB" machine may be allowed 8.

Lesson: 1 (the dev machine)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmcourse.doctor.report import Row

__all__ = [
    "Memory",
    "check_cpu",
    "check_disk",
    "check_memory",
    "check_ports",
    "cpu_quota",
    "group_folders",
    "probe_free_bytes",
    "probe_memory",
    "read_cpu_quota",
    "read_memory",
]

GIB = 1024**3
_UNLIMITED = 2**60  # control groups of version 1 write a number near 2**63 for "no limit"


@dataclass(frozen=True)
class Memory:
    """Of the machine, and of the control group where that is tighter."""

    total_bytes: int
    available_bytes: int
    limited: bool


def group_folders(membership: str, root: Path) -> list[Path]:
    """The control groups of this process and all above them; `membership` is the text of /proc/self/cgroup."""
    folders = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / controllers if controllers and (root / controllers).is_dir() else root
        group = base / path.lstrip("/")
        folders += [group, *(parent for parent in group.parents if parent == base or base in parent.parents)]
    return list(dict.fromkeys(folders))


def _numbers(folders: Iterable[Path], *names: str) -> list[int]:
    texts = [(folder / name).read_text() for folder in folders for name in names if (folder / name).is_file()]
    return [int(text) for text in texts if text.strip().isdigit() and int(text) < _UNLIMITED]


def probe_memory(membership: str, root: Path, meminfo: str) -> Memory:
    """meminfo is the text of /proc/meminfo (kB)."""
    lines = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    total, available = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    limited = False
    for folder in group_folders(membership, root):
        limit = min(_numbers([folder], "memory.max", "memory.limit_in_bytes"), default=None)
        used = max(_numbers([folder], "memory.current", "memory.usage_in_bytes"), default=0)
        if limit is not None and limit < total:
            total, limited = limit, True
            available = min(available, max(0, limit - used))
    return Memory(total, available, limited)


def read_memory() -> Memory | None:
    """This machine's; None where there is no /proc."""
    if not Path("/proc/meminfo").is_file():
        return None
    membership = Path("/proc/self/cgroup")
    text = membership.read_text() if membership.is_file() else ""
    return probe_memory(text, Path("/sys/fs/cgroup"), Path("/proc/meminfo").read_text())


def cpu_quota(membership: str, root: Path) -> float | None:
    """Cores that the control group may use at once (cpu.max, or cpu.cfs_*_us); None: no limit."""
    quotas = []
    for folder in group_folders(membership, root):
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        elif (folder / "cpu.cfs_quota_us").is_file():
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        else:
            continue
        if quota.isdigit() and int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def read_cpu_quota() -> float | None:
    membership = Path("/proc/self/cgroup")
    return cpu_quota(membership.read_text(), Path("/sys/fs/cgroup")) if membership.is_file() else None


def check_cpu(cores: int, quota: float | None, threads: int | None) -> Row:
    """cores: that this process may run on; threads: that torch would use."""
    usable = min(float(cores), quota) if quota else float(cores)
    found = f"{usable:g} cores" + (f" of {cores} (the container's limit)" if usable < cores else "")
    found += f", torch uses {threads} threads" if threads else ""
    if threads and threads > max(1, usable) + 0.5:
        return Row(
            "CPU",
            "warn",
            f"{found}: more than it has, so they wait on each other",
            f"export OMP_NUM_THREADS={max(1, int(usable))}",
        )
    return Row("CPU", "ok", found)


def check_memory(memory: Memory | None) -> Row:
    if memory is None:
        return Row("memory", "ok", "unknown on this platform")
    of = "the container's" if memory.limited else "the machine's"
    found = f"{memory.available_bytes / GIB:.1f} GiB free of {of} {memory.total_bytes / GIB:.1f} GiB"
    if memory.available_bytes < 2 * GIB:
        return Row(
            "memory", "warn", found, "shut down other notebooks' kernels (JupyterLab: Running Terminals and Kernels)"
        )
    return Row("memory", "ok", found)


def probe_free_bytes(folder: Path) -> tuple[int, bool]:
    """Free space where `folder` is or would be made, and whether it can be written."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free, os.access(existing, os.W_OK)


def check_disk(name: str, folder: Path, free_bytes: int, *, writable: bool) -> Row:
    """A 1.8B model takes 3.5 GiB in float16 and as much again while it is downloaded or converted."""
    found = f"{free_bytes / GIB:.1f} GiB free in {folder}"
    if not writable:
        return Row(name, "fix", f"{folder} cannot be written", "export HF_HOME=FOLDER  # one that you can write to")
    if free_bytes < GIB // 4:
        return Row(name, "fix", found, f"du -h -d 1 {folder} | sort -h  # shows what to delete")
    if free_bytes < 8 * GIB:
        return Row(
            name,
            "warn",
            f"{found}: the bundled model runs, a 1.8B model wants 8",
            f"du -h -d 1 {folder} | sort -h  # shows what to delete",
        )
    return Row(name, "ok", found)


def check_ports(uses: Mapping[int, str], listeners: Mapping[int, str]) -> list[Row]:
    """uses: port → what the course uses it for. listeners: ports in use → by whom."""
    rows = []
    for port, use in uses.items():
        who = listeners.get(port)
        if who is None:
            rows.append(Row(f"port {port}", "ok", f"free ({use})"))
        elif use == "JupyterLab":
            rows.append(Row(f"port {port}", "ok", f"{who} listens ({use}; another would take the next port)"))
        else:
            rows.append(
                Row(f"port {port}", "warn", f"{who} listens ({use})", f"add --server-port {port + 1} to the command")
            )
    return rows
