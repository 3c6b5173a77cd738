"""Child: the process in which an answer runs, seen from the grader: start it, ask it with a deadline, end it.

    grader (this process)                          child, one per submission, in a temporary home
    ├── cases, expected values, seed                ├── bubblewrap, or `unshare`, or neither (namespace_commands)
    ├── the verdict                                 ├── limits, Landlock, audit hook (sandbox/confine.py)
    └── functions of the exercise  ←── asks ──      └── the answer: arguments in, value out, as plain data

Contract: `ask` returns within its deadline or raises ChildLostError; after that the child is gone, with all it started.

Lesson: 9 (how grading is made safe)
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import lmcourse
from lmcourse.homework.sandbox.confine import Limits
from lmcourse.homework.sandbox.plain import decode, encode, read_message, write_message

__all__ = ["PRELOAD", "Child", "ChildLostError", "namespace_commands"]

_START_SECONDS = 60.0
PRELOAD = ("torch", "numpy", "einops")
_PACKAGE = Path(lmcourse.__file__).resolve().parent
_HIDDEN = (_PACKAGE / "homework", _PACKAGE.parent / "instructor")
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox.runner import main; main()"


class ChildLostError(Exception):
    """The child ran out of time, died, or answered with what is no message; the text says which."""


class Child:
    """A started child. Leaving its `with` block ends it and removes its home."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        around: tuple[str, ...] | None = None,
        preload: tuple[str, ...] = PRELOAD,
    ) -> None:
        """`around` is one of namespace_commands(), None: the best; `preload` is imported before the limits are set."""
        self._limits, self._preload = limits or Limits(), preload
        self._around = namespace_commands()[0] if around is None else around
        self._home = Path(tempfile.mkdtemp(prefix="lmcourse-answer-"))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        code = self._home / "code"
        shutil.copytree(
            Path(__file__).parents[1] / "sandbox", code / "sandbox", ignore=shutil.ignore_patterns("__pycache__")
        )
        inner = self._home / "home"
        inner.mkdir()
        command = [*_placed(self._around, str(inner)), sys.executable, "-I", "-B", "-c", _CODE, str(code)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=inner,
            env=_environment(inner),
            start_new_session=True,
        )
        setup = {
            "home": str(inner),
            "package": str(_PACKAGE),
            "hidden": [str(path) for path in _HIDDEN],
            "preload": list(self._preload),
            "limits": asdict(self._limits),
        }
        self._deadline = time.monotonic() + _START_SECONDS
        self._write(setup)
        self.walls: tuple[str, ...] = (*self._around[:1], *map(str, self._read().get("ready", ())))

    def ask(self, message: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        """Send a message and read the reply; nothing may be asked back."""
        self._deadline = time.monotonic() + seconds
        self._write(message)
        return self._read()

    def call(self, arguments: Any, *, seconds: float) -> dict[str, Any]:
        """Call the loaded answer. Functions and iterators among the arguments are called here, when it asks."""
        kept: list[Any] = []

        def keep(value: Any) -> int:
            kept.append(value)
            return len(kept) - 1

        self._deadline = time.monotonic() + seconds
        self._write({"call": encode(tuple(arguments), keep)})
        while True:
            reply = self._read()
            if "ask" not in reply:
                return reply
            self._write(_serve(kept, reply))

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            # Small messages fit the pipe; a large one is read by a child that waits for it.
            write_message(_Patient(self._process.stdin.fileno(), self._left), message)  # type: ignore[arg-type]
        except OSError as error:
            raise ChildLostError("the process of the answer ended") from error

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            return read_message(functools.partial(_read_exactly, self._process.stdout.fileno(), self._left))
        except ValueError as error:
            raise ChildLostError("the process of the answer sent something that is no value") from error

    def _left(self) -> float:
        """Seconds until the deadline; ChildLostError when there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ChildLostError("no answer within the time limit")
        return left

    def close(self) -> None:
        """End it with everything that it started."""
        if (process := self._process) is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(kept: list[Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What a function or iterator of the exercise answers."""
    try:
        number, arguments = asked["ask"], decode(asked.get("arguments"))
        if type(number) is not int or not 0 <= number < len(kept) or not isinstance(arguments, tuple):
            raise ValueError("there is no such function")
        value = kept[number]
        if hasattr(value, "__next__"):
            return {"value": encode(next(value))}
        return {"value": encode(value(*arguments))}
    except StopIteration:
        return {"ended": True}
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"[:400]}


class _Patient:
    """A pipe to write to, as long as there is time left."""

    def __init__(self, pipe: int, left: Callable[[], float]) -> None:
        self._pipe, self._left = pipe, left
        os.set_blocking(pipe, False)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if select.select([], [self._pipe], [], self._left())[1]:
                view = view[os.write(self._pipe, view[: 2**16]) :]

    def flush(self) -> None:
        return


def _read_exactly(pipe: int, left: Callable[[], float], count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        if not select.select([pipe], [], [], left())[0]:
            continue
        data = os.read(pipe, min(count - len(parts), 2**20))
        if not data:
            raise ChildLostError("the process of the answer ended")
        parts += data
    return bytes(parts)


def _environment(home: Path) -> dict[str, str]:
    """No setting of the grader's reaches the child."""
    return {
        "HOME": str(home),
        "TMPDIR": str(home),
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        **{name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "SYSTEMROOT") if name in os.environ},
    }


def namespace_commands() -> tuple[tuple[str, ...], ...]:
    """What to write before a command so that it runs without network and sees no other process, best first.

    Only what works on this machine, and last of all nothing. `{home}` stands for the folder that may be written.
    """
    return _working_commands()


@functools.cache
def _working_commands() -> tuple[tuple[str, ...], ...]:
    apart = ("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL")
    home = ("--bind", "{home}", "{home}")
    bubblewrap = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", *home, *apart)
    unshare = ("unshare", "--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child")
    candidates = (bubblewrap, (*unshare, "--mount-proc"), unshare)
    return (*(command for command in candidates if _works(command)), ())


def _works(command: tuple[str, ...]) -> bool:
    if not shutil.which(command[0]):
        return False
    with tempfile.TemporaryDirectory(prefix="lmcourse-probe-") as home:
        try:
            probe = subprocess.run([*_placed(command, home), "true"], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return probe.returncode == 0


def _placed(command: tuple[str, ...], home: str) -> list[str]:
    return [part.replace("{home}", home) for part in command]
