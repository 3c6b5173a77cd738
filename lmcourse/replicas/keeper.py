"""The keeper: the command's own process. It holds the port, starts the front again if it dies, and replaces replicas.

    keeper ── listening socket ──→ front (HTTP)     dies: the spare, which is loaded already, takes over its socket
       │                           spare            and another spare is started
       └───── deploy(generation) ─→ Ray Serve ─→ replicas      the board asks for a new generation: one by one

Contract: stopping finishes what runs within the grace; the port and the processes are gone when `keep` returns.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmcourse.errors import MachineError
from lmcourse.replicas.front_words import LOADED, READY
from lmcourse.replicas.settings import FrontTask

__all__ = ["Front", "Keeper"]

_FRONT = "from lmcourse.replicas.front import main; main()"
_LOOK_SECONDS = 0.05
_START_SECONDS = 120.0
_QUICK_DEATHS = 3  # fronts that die before they answer: something is wrong that another try does not mend


class Front:
    """A process that answers HTTP once it is told to; until then a spare that only loads."""

    def __init__(self, task: FrontTask) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FRONT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[task.listener_fd],
            start_new_session=True,  # Ctrl-C in the terminal is for the keeper, who ends it in good order
            text=True,
        )
        self._write(task.to_json())
        self._said = {word: threading.Event() for word in (LOADED, READY)}
        threading.Thread(target=self._listen, name="lmcourse-front", daemon=True).start()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died: its status says so
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.strip() in self._said:
                    self._said[line.strip()].set()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """None while it lives, then its exit status, negative for a signal."""
        return self._process.poll()

    @property
    def loaded(self) -> bool:
        """Whether it would answer at once."""
        return self._said[LOADED].is_set()

    def answer(self) -> None:
        """From now on, or as soon as it has loaded."""
        self._write("answer")

    def wait_ready(self, seconds: float) -> bool:
        """Whether it answers."""
        return self._said[READY].wait(seconds)

    def stop(self, seconds: float) -> None:
        """Let it finish what runs; after that, end it."""
        assert self._process.stdin is not None
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._process.stdin.close()


@dataclass
class Keeper:
    """Keeps a front and replicas as they should be until `stop` says so (no Event: a signal's handler may not lock)."""

    task: FrontTask
    read_generation: Callable[[], int]  # what the board wants
    deploy: Callable[[int], Any]
    tell: Callable[[str], None]
    stop: Callable[[], bool]

    def keep(self, on_started: Callable[[], None]) -> None:
        """Until told to stop. MachineError if no front stays alive."""
        fronts = [self._start(Front(self.task))]
        on_started()
        looked = replacing = None
        generation = 0
        try:
            while not self.stop():
                time.sleep(_LOOK_SECONDS)
                self._look_after(fronts)
                if looked is not None and time.monotonic() - looked < 1:
                    continue
                looked = time.monotonic()
                if replacing is not None and replacing.is_alive():
                    continue
                wanted = self.read_generation()
                if wanted > generation:
                    generation = wanted
                    replacing = threading.Thread(target=self._replace, args=(generation,), daemon=True)
                    replacing.start()
        finally:
            for spare in fronts[1:]:
                spare.stop(0)
            fronts[0].stop(self.task.server.grace_seconds + 10)

    def _look_after(self, fronts: list[Front]) -> None:
        """The first answers, the second is the spare; those that died are replaced."""
        if len(fronts) > 1 and fronts[1].status is not None:
            fronts.pop().stop(0)
        if fronts[0].status is not None:
            began = time.monotonic()
            cause = _cause(fronts[0].status)
            fronts.pop(0).stop(0)
            self.tell(f"the front died ({cause}); clients see a reset and may ask again; the spare takes over")
            fronts[:] = [self._start(fronts.pop() if fronts else Front(self.task))]
            self.tell(f"the front answers again after {time.monotonic() - began:.2f} s")
        if len(fronts) == 1:
            fronts.append(Front(self.task))

    def _start(self, front: Front) -> Front:
        """A front that answers; the one given, or one of the next that are tried."""
        for _ in range(_QUICK_DEATHS):
            front.answer()
            deadline = time.monotonic() + _START_SECONDS
            while front.status is None and time.monotonic() < deadline and not self.stop():
                if front.wait_ready(_LOOK_SECONDS):
                    return front
            if self.stop():
                return front
            front.stop(0)
            front = Front(self.task)
        front.stop(0)
        raise MachineError("the front does not start", next_step="its messages are above")

    def _replace(self, generation: int) -> None:
        began = time.monotonic()
        self.tell(f"replacing the replicas one by one (generation {generation})")
        try:
            self.deploy(generation)
        except Exception as error:  # of Ray's; what ran goes on, and the next request to restart is another try
            self.tell(f"the replicas were not all replaced: {type(error).__name__}: {error}")
            return
        self.tell(f"replicas replaced after {time.monotonic() - began:.1f} s")


def _cause(status: int | None) -> str:
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
