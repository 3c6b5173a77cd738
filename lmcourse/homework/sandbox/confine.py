"""What the process of an answer may do, set by itself before the answer is read, and from then on only ever less.

    limits      CPU seconds, address space, size of a file, open files, processes      every system with `resource`
    Landlock    write below its home only, read only what Python needs, no TCP, no
                signals to others                                                       Linux ≥ 5.13
    audit hook  the same in Python, for the rest: a fence, where the others are walls   everywhere

A wall of the kernel cannot be taken down by what runs inside, whatever it patches or loads.

Contract: `confine` returns the names of the walls that stand; it raises nothing where a system has none.

Lesson: 9 (how grading is made safe)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Limits", "Places", "choose_places", "confine"]

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls of Landlock, the same on every architecture
_NO_NEW_PRIVILEGES = 38
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_OF_FILES = _EXECUTE | _WRITE | _READ | 1 << 14 | 1 << 15  # with truncate and ioctl
_ALL_ACCESS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_NEWEST_ACCESS = (1 << 16) - 1
_REFUSED_EVENTS = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill",
    "os.killpg", "os.startfile", "os.chmod", "os.chown", "os.lchown", "os.setxattr", "os.removexattr", "os.utime",
    "pty.spawn", "signal.pthread_kill", "ftplib.", "smtplib.", "urllib.", "http.", "webbrowser.",
)  # fmt: skip
_PATH_EVENTS = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Limits:
    """`memory_bytes` comes on top of what Python and torch have mapped by then."""

    cpu_seconds: int = 90
    memory_bytes: int = 2**30
    file_bytes: int = 2**20
    num_files: int = 128


@dataclass(frozen=True)
class Places:
    """`home` may be written; `readable` may be read, `listed` may be listed; what is `hidden` may not even be read."""

    home: str
    readable: tuple[str, ...]
    listed: tuple[str, ...]
    hidden: tuple[str, ...]


def confine(limits: Limits, places: Places) -> list[str]:
    """Close every door that this system has."""
    walls = _set_limits(limits)
    walls += _landlock(places)
    sys.addaudithook(_Guard(places))
    return [*walls, "audit hook"]


def choose_places(home: str, package: str, hidden: Iterable[str]) -> Places:
    """What Python needs to read: the system, this installation, and `package` without what is hidden."""
    system = ["/usr", "/lib", "/lib64", "/bin", "/etc", "/dev/null", "/dev/urandom", "/dev/zero", "/dev/shm"]
    paths = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    roots = [*system, sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *paths, package]
    hidden = [os.path.realpath(path) for path in hidden]
    places: list[str] = []
    for root in dict.fromkeys(os.path.realpath(root) for root in roots):
        places += _without(root, hidden)
    listed = [os.path.realpath(path) for path in (*paths, package)]  # imports look for names in these
    return Places(home, tuple(dict.fromkeys(places)), tuple(listed), tuple(hidden))


def _without(root: str, hidden: list[str]) -> list[str]:
    """The root, or its parts where something hidden lies below it."""
    if root in hidden or not os.path.exists(root):
        return []
    if not any(path.startswith(root + os.sep) for path in hidden):
        return [root]
    return [place for name in sorted(os.listdir(root)) for place in _without(os.path.join(root, name), hidden)]


def _set_limits(limits: Limits) -> list[str]:
    try:
        import resource
    except ImportError:
        return []
    wanted = {
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": limits.num_files,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,
    }
    if (mapped := _mapped_bytes()) is not None:
        wanted["RLIMIT_AS"] = mapped + limits.memory_bytes
    for name, value in wanted.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))
    return ["resource limits"]


def _mapped_bytes() -> int | None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _landlock(places: Places) -> list[str]:
    if not sys.platform.startswith("linux"):
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    abi = libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 1:
        return []
    access = _ALL_ACCESS.get(abi, _NEWEST_ACCESS)
    words = [access, *([3] if abi >= 4 else []), *([3] if abi >= 6 else [])]  # files, TCP, scopes
    rules = (ctypes.c_uint64 * len(words))(*words)
    ruleset = libc.syscall(_CREATE, ctypes.byref(rules), ctypes.c_size_t(8 * len(words)), ctypes.c_uint32(0))
    if ruleset < 0:
        return []
    for path in places.readable:
        _allow(libc, ruleset, path, _READ | _LIST | _EXECUTE)
    for path in places.listed:
        _allow(libc, ruleset, path, _LIST)
    _allow(libc, ruleset, places.home, access)
    _allow(libc, ruleset, os.devnull, _READ | _WRITE)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    failed = libc.syscall(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)
    return [] if failed else [f"Landlock {abi}"]


def _allow(libc: Any, ruleset: int, path: str, access: int) -> None:
    class Beneath(ctypes.Structure):
        _pack_ = 1
        _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]

    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = Beneath(access if os.path.isdir(path) else access & _OF_FILES, folder)
        libc.syscall(_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
        os.close(folder)


class _Guard:
    """An audit hook: it cannot be removed, and refuses what the kernel may not."""

    def __init__(self, places: Places) -> None:
        self._home = os.path.realpath(places.home) + os.sep
        self._hidden = tuple(os.path.realpath(path) for path in places.hidden)

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            self._check_open(*given[:3])
        elif event.startswith(_REFUSED_EVENTS):
            raise PermissionError(f"an answer may not use {event} while it is graded")
        elif event in _PATH_EVENTS:
            for path in given[:2]:
                if isinstance(path, str | bytes):
                    self._require_home(path)

    def _check_open(self, path: Any, mode: Any, flags: Any) -> None:
        if not isinstance(path, str | bytes):
            return
        by_flags = isinstance(flags, int) and flags & _WRITING
        writes = by_flags or (isinstance(mode, str) and set(mode) & set("wax+"))
        where = os.path.realpath(os.fsdecode(path))
        if writes and where != os.devnull:
            self._require_home(path)
        if any(where == hidden or where.startswith(hidden + os.sep) for hidden in self._hidden):
            raise PermissionError("an answer may not read this while it is graded")

    def _require_home(self, path: str | bytes) -> None:
        if not os.path.realpath(os.fsdecode(path)).startswith(self._home):
            raise PermissionError("an answer may not write here while it is graded")
