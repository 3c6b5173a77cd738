"""The keeper: the command's own process. It holds the port, starts the front again if it dies, and replaces replicas.

    keeper ── listening socket ──→ front (HTTP)        dies: another one on the same socket, seconds later
       └───── deploy(generation) ─→ Ray Serve ─→ replicas      the board asks for a new generation: one by one

Contract: stopping finishes what runs within the grace; the port and the processes are gone when `keep` returns.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmcourse.errors import MachineError
from lmcourse.replicas.settings import FrontTask

__all__ = ["Front", "Keeper"]

_FRONT = "from lmcourse.replicas.front import main; main()"
_LOOK_SECONDS = 0.1
_START_SECONDS = 120.0
_QUICK_DEATHS = 3  # fronts that die before they answer: something is wrong that another try does not mend


class Front:
    """The process that answers HTTP, while it lives."""

    def __init__(self, task: FrontTask) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FRONT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[task.listener_fd],
            start_new_session=True,  # Ctrl-C in the terminal is for the keeper, who ends it in good order
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(task.to_json() + "\n")
        self._process.stdin.flush()
        self._ready = threading.Event()
        threading.Thread(target=self._listen, name="lmcourse-front", daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for _ in self._process.stdout:
            self._ready.set()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """None while it lives, then its exit status, negative for a signal."""
        return self._process.poll()

    def wait_ready(self, seconds: float) -> bool:
        """Whether it answers."""
        return self._ready.wait(seconds)

    def stop(self, seconds: float) -> None:
        """Let it finish what runs; after that, end it."""
        assert self._process.stdin is not None
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdin.close()


@dataclass
class Keeper:
    """Keeps a front and replicas as they should be until `stop` is set."""

    task: FrontTask
    read_generation: Callable[[], int]  # what the board wants
    deploy: Callable[[int], Any]
    tell: Callable[[str], None]
    stop: threading.Event

    def keep(self, on_started: Callable[[Front], None]) -> None:
        """Until told to stop. MachineError if no front stays alive."""
        front = self._start(Front(self.task))
        on_started(front)
        replacing: threading.Thread | None = None
        generation, looked = 0, 0.0
        try:
            while not self.stop.wait(_LOOK_SECONDS):
                if front.status is not None:
                    front = self._renew(front)
                idle = replacing is None or not replacing.is_alive()
                if idle and time.monotonic() - looked > 1:
                    looked = time.monotonic()
                    wanted = self.read_generation()
                    if wanted > generation:
                        generation = wanted
                        replacing = threading.Thread(target=self._replace, args=(generation,), daemon=True)
                        replacing.start()
        finally:
            front.stop(self.task.server.grace_seconds + 10)

    def _renew(self, front: Front) -> Front:
        """Another front in the place of one that died."""
        began = time.monotonic()
        self.tell(f"the front died ({_cause(front.status)}); clients see a reset and may ask again; another starts")
        front = self._start(Front(self.task))
        self.tell(f"the front answers again after {time.monotonic() - began:.1f} s")
        return front

    def _start(self, front: Front) -> Front:
        """A front that answers; the one given, or one of the next that are tried."""
        for _ in range(_QUICK_DEATHS):
            deadline = time.monotonic() + _START_SECONDS
            while front.status is None and time.monotonic() < deadline and not self.stop.is_set():
                if front.wait_ready(_LOOK_SECONDS):
                    return front
            if self.stop.is_set():
                return front
            front.stop(0)
            front = Front(self.task)
        front.stop(0)
        raise MachineError("the front does not start", next_step="its messages are above")

    def _replace(self, generation: int) -> None:
        began = time.monotonic()
        self.tell(f"replacing the replicas one by one (generation {generation})")
        self.deploy(generation)
        self.tell(f"replicas replaced after {time.monotonic() - began:.1f} s")


def _cause(status: int | None) -> str:
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
