"""Where ranks meet, and how those that torchrun started, on one machine or several, know of each other's end.

    rank 0   1 2 3 4 5 ···        each adds to its number in torchrun's store once a second, and looks whether
    rank 1   1 2 3 ✝              the others' have grown; one that stands for 6 looks is lost

The idea: under torchrun they are nobody's parent and nobody's child. A killed process closes its connections and gloo
notices at once; a machine that went away, or a process that hangs, closes nothing. A number that stands still tells of
all of these, and so does a store that is gone. Looks are counted and not seconds: after this machine itself stood
still for a minute, the others may have, too.

Lesson: 9 (more than one machine)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lmcourse.errors import MachineError

__all__ = ["Meeting", "Pulse", "meet_under_torchrun"]

_BEAT_SECONDS, _MOST_LOOKS = 1.0, 6


class Pulse:
    """One rank's thread; `connect` makes a connection of its own, since one that waits holds the others up."""

    def __init__(self, connect: Callable[[], Store], rank: int, size: int) -> None:
        self._connect, self._rank = connect, rank
        self._others = [other for other in range(size) if other != rank]
        self._lost: str | None = None
        self._over = threading.Event()
        threading.Thread(target=self._beat, name="lmcourse-pulse", daemon=True).start()

    def watch(self) -> None:
        """MachineError if a rank is lost, or the store in which they meet."""
        if self._lost is not None:
            raise MachineError(
                "a rank of this engine was lost",
                expected="every rank alive until the engine is closed",
                got=self._lost,
                where="tp",
                next_step="start all of them again with torchrun",
            )

    def stop(self) -> None:
        """Nobody is watched any more."""
        self._over.set()

    def _beat(self) -> None:
        try:
            store = self._connect()
            seen: dict[int, tuple[int, int]] = {}  # the number, and at how many looks it has stood
            while not self._over.is_set() and self._lost is None:
                store.add(f"pulse-{self._rank}", 1)
                self._lost = self._look(store, seen)
                self._over.wait(_BEAT_SECONDS)
        except RuntimeError as error:  # of the connection
            if not self._over.is_set():
                self._lost = f"the ranks' store does not answer: {str(error).splitlines()[0]}"

    def _look(self, store: Store, seen: dict[int, tuple[int, int]]) -> str | None:
        """Who is lost; a rank that has not come yet is not."""
        for other in self._others:
            count, (before, stood) = store.add(f"pulse-{other}", 0), seen.get(other, (0, 0))
            stood = stood + 1 if count == before else 0
            seen[other] = count, stood
            if count and stood > _MOST_LOOKS:
                return f"rank {other} has said nothing for {stood * _BEAT_SECONDS:.0f} s"
        return None


@dataclass(frozen=True)
class Meeting:
    """Where and as whom a process joins."""

    store: Store
    rank: int
    size: int
    local_rank: int  # which GPU of its machine
    pulse: Pulse | None = None  # of those who have no parent among them


def meet_under_torchrun(environment: Mapping[str, str] | None = None) -> Meeting | None:
    """The meeting that torchrun has prepared, or None if it did not start this process."""
    said = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" not in said or int(said.get("WORLD_SIZE", "1")) == 1:
        return None
    rank, size = int(said["RANK"]), int(said["WORLD_SIZE"])
    agent = said.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    leads = rank == 0 and not agent
    store = TCPStore(said["MASTER_ADDR"], int(said["MASTER_PORT"]), size, leads, wait_for_workers=False)
    run = f"{said['TORCHELASTIC_RUN_ID']}-{said.get('TORCHELASTIC_RESTART_COUNT', '0')}"

    def connect() -> Store:
        host, port = said["MASTER_ADDR"], int(said["MASTER_PORT"])
        return PrefixStore(run, TCPStore(host, port, size, is_master=False, wait_for_workers=False))

    return Meeting(PrefixStore(run, store), rank, size, int(said["LOCAL_RANK"]), Pulse(connect, rank, size))
