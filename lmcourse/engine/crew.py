"""Crew: the processes that share one model, seen from rank 0, which has the only scheduler.

The idea: whoever asks for tp=2 sees one engine. Rank 0 is the process that asked; it starts the others, tells each of
them before every step what the step is, and does its own share. The answer needs nothing from the others: behind the
last layer every rank has the same logits.

    rank 0     schedule ─ tell ─┬─ launch: layers, each with two sums over the ranks ─ sample ─ land
    rank 1…            listen ──┴─ launch: the same layers on their own heads ──────── sample

Under torchrun the processes are there already, on one machine or several: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
Otherwise they meet at a file in a temporary folder; no port is listened on but those that gloo and NCCL take.

Contract: a rank that dies becomes a MachineError within seconds, with the last lines that it wrote; it never becomes a
wait. `close` ends all of them, and so does the end of rank 0, however it ends. Under torchrun a Pulse watches.

Lesson: 9 (more than one GPU)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed import FileStore, PrefixStore, ProcessGroup, ProcessGroupGloo, Store  # type: ignore[attr-defined]

from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine.crew_folder import claim_folder
from lmcourse.engine.crew_meeting import Meeting, Pulse, meet_under_torchrun
from lmcourse.errors import ConfigError, LmcourseError, MachineError
from lmcourse.layers import GroupRanks, finish, join_peers

__all__ = ["Crew", "join", "start_crew"]

_FOREVER = timedelta(days=300)  # a crew may be idle as long as its notebook is open
_STEP = timedelta(minutes=5)  # but in a step, and while weights are read, nobody waits longer for another
_ARRIVAL_SECONDS, _LEAVING_SECONDS, _NOTICE_SECONDS, _GLANCE_SECONDS = 120.0, 5.0, 2.0, 0.1
_MEMBER = "from lmcourse.engine.crew_member import main; raise SystemExit(main())"
_FRAME = 1 << 14  # bytes of a message that fit into one broadcast; longer ones take a second


@dataclass
class Crew:
    """This process's place among the ranks, the line on which rank 0 speaks, and the processes that it started."""

    ranks: GroupRanks
    line: ProcessGroup
    processes: Mapping[int, subprocess.Popen[bytes]] = field(default_factory=dict)  # by rank
    folder: Path | None = None  # of the meeting and of what the others print
    claim: BinaryIO | None = None  # to the folder
    pulse: Pulse | None = None
    _whole: bool = True

    def tell(self, message: bytes, watch: Callable[[], None] | None = None) -> None:
        """Say it to all others; b"" ends them. `watch` may end the wait for them (None: that of the ranks)."""
        frame = torch.zeros(_FRAME, dtype=torch.uint8)
        view = frame.numpy()
        view[:8] = memoryview(len(message).to_bytes(8, "little"))
        first, rest = message[: _FRAME - 8], message[_FRAME - 8 :]
        view[8 : 8 + len(first)] = memoryview(first)
        self._speak(frame, watch)
        if rest:
            self._speak(torch.frombuffer(bytearray(rest), dtype=torch.uint8), watch)

    def listen(self) -> bytes:
        """What rank 0 says next."""
        frame = torch.zeros(_FRAME, dtype=torch.uint8)
        self._speak(frame)
        said = frame.numpy().tobytes()
        length = int.from_bytes(said[:8], "little")
        missing = length - (_FRAME - 8)
        if missing <= 0:
            return said[8 : 8 + length]
        rest = torch.zeros(missing, dtype=torch.uint8)
        self._speak(rest)
        return said[8:] + rest.numpy().tobytes()

    def _speak(self, words: torch.Tensor, watch: Callable[[], None] | None = None) -> None:
        finish(self.line.broadcast(words, 0), self.line, watch or self.ranks.watch)

    def require_complete(self) -> None:
        """MachineError if a process that was started has ended."""
        try:
            self.ranks.watch()
        except MachineError:
            self.let_go()
            raise

    def let_go(self) -> None:
        """Nobody waits on a device for ranks that are lost; nothing more can be computed together."""
        if self._whole:
            self._whole = False
            self.ranks.let_go()

    def explain(self, error: BaseException) -> None:
        """MachineError unless `error` is one of this package's: whatever else ends a joint step leaves ranks waiting.

        A group may notice a lost rank before the system does, so its process is given a moment to be seen to end.
        """
        if isinstance(error, MachineError):
            self.let_go()
        if not isinstance(error, RuntimeError) or isinstance(error, LmcourseError):
            return
        until = time.monotonic() + _NOTICE_SECONDS
        while time.monotonic() < until:
            self.require_complete()
            time.sleep(0.02)
        self.let_go()
        raise _lost([], self.folder, error) from error

    def close(self) -> None:
        """End the others. Closing twice is fine."""
        patience = 0.0
        if self._whole:
            with contextlib.suppress(RuntimeError, MachineError):  # a rank was lost; the others know, or are ended
                self.require_complete()
                self.tell(b"", _limit(_LEAVING_SECONDS, self.ranks.watch))
                patience = _LEAVING_SECONDS
        if self.pulse is not None:
            self.pulse.stop()
        _end(self.processes, self.folder, self.claim, patience)
        self.let_go()  # else the group's end would wait, in whoever drops it, for graphs that are dropped later


def _see_nobody() -> None:
    """Who started no processes does not see them end."""


def start_crew(folder: Path, config: TurbomindEngineConfig, device: torch.device) -> Crew:
    """Rank 0 of `config.tp` ranks; the others load the model meanwhile. MachineError where there are too few GPUs."""
    meeting = meet_under_torchrun()
    if meeting is not None:
        if meeting.size != config.tp:
            raise ConfigError(
                "torchrun started another number of processes",
                expected=f"tp={meeting.size}", got=f"tp={config.tp}", where="tp", next_step="let both say the same",
            )  # fmt: skip
        return join(meeting, device, _see_nobody if meeting.pulse is None else meeting.pulse.watch)
    count = torch.cuda.device_count()
    if device.type == "cuda" and count < config.tp:
        raise MachineError(
            "there are too few GPUs", expected=f"{config.tp} (tp={config.tp})", got=count, where="tp",
            next_step=f"take tp={count}, or spread over machines with torchrun",
        )  # fmt: skip
    place, claim = claim_folder()
    store = FileStore(str(place / "meeting"), config.tp)
    processes = {rank: _start(rank, place, folder, config, device) for rank in range(1, config.tp)}
    try:
        _await(store, processes, place)
        crew = join(Meeting(store, 0, config.tp, 0), device, partial(_watch, processes, place))
    except BaseException:
        _end(processes, place, claim)
        raise
    crew.processes, crew.folder, crew.claim = processes, place, claim
    weakref.finalize(crew, _end, processes, place, claim, patience=0.0)
    return crew


def join(meeting: Meeting, device: torch.device, watch: Callable[[], None] = _see_nobody) -> Crew:
    """Take one's place; returns when all have. `watch` raises if one of the others is known to be lost."""
    place = torch.device("cuda", meeting.local_rank) if device.type == "cuda" else device
    meeting.store.set(f"here-{meeting.rank}", "yes")
    line = _connect(meeting, "line", _FOREVER, watch)
    if place.type == "cuda":
        from torch.distributed import ProcessGroupNCCL

        torch.cuda.set_device(place)
        options = ProcessGroupNCCL.Options()
        group: Any = ProcessGroupNCCL(PrefixStore("data", meeting.store), meeting.rank, meeting.size, options)
    else:
        group = _connect(meeting, "data", _STEP, watch)
    ranks = join_peers(GroupRanks(group, place, watch), PrefixStore("peers", meeting.store))
    return Crew(ranks, line, pulse=meeting.pulse)


def _connect(meeting: Meeting, name: str, patience: timedelta, watch: Callable[[], None]) -> Any:
    """gloo's group of all ranks. gloo itself would wait for a rank that is lost between `here` and its address."""
    made: Future[Any] = Future()

    def make() -> None:
        try:
            store = PrefixStore(name, meeting.store)
            made.set_result(ProcessGroupGloo(store, meeting.rank, meeting.size, patience))
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=make, daemon=True).start()
    while not made.done():
        watch()
        wait([made], _GLANCE_SECONDS)
    return made.result()


def _start(
    rank: int, place: Path, folder: Path, config: TurbomindEngineConfig, device: torch.device
) -> subprocess.Popen[bytes]:
    """A process of its own session, so that Ctrl-C reaches rank 0 alone; its words go to a file."""
    task = {"rank": rank, "meeting": str(place / "meeting"), "folder": str(folder), "device": device.type}
    task |= {"parent": os.getpid()}
    words = [sys.executable, "-c", _MEMBER, json.dumps(task | {"config": vars(config)})]
    packages = str(Path(__file__).parents[2])
    paths = os.pathsep.join([packages, *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = str(max(1, torch.get_num_threads() // config.tp))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": paths}
    with (place / f"rank-{rank}").open("wb") as log:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )


def _limit(seconds: float, watch: Callable[[], None]) -> Callable[[], None]:
    """`watch`, and a MachineError once the seconds are over."""
    until = time.monotonic() + seconds

    def look() -> None:
        watch()
        if time.monotonic() > until:
            raise _lost([], None, None)

    return look


def _watch(processes: Mapping[int, subprocess.Popen[bytes]], place: Path) -> None:
    """MachineError if a process that was started has ended."""
    gone = [rank for rank, process in processes.items() if process.poll() is not None]
    if gone:
        raise _lost(gone, place, None)


def _await(store: Store, processes: Mapping[int, subprocess.Popen[bytes]], place: Path) -> None:
    """Until all have come, or one has ended instead."""
    watch = _limit(_ARRIVAL_SECONDS, partial(_watch, processes, place))
    while not all(store.check([f"here-{rank}"]) for rank in processes):
        watch()
        time.sleep(0.02)


def _lost(gone: list[int], place: Path | None, cause: Exception | None) -> MachineError:
    words = "".join(_last_words(place / f"rank-{rank}") for rank in gone) if place else ""
    return MachineError(
        "a rank of this engine was lost",
        expected="every rank alive until the engine is closed",
        got=(f"rank {', '.join(map(str, gone))} ended: {words}" if gone else "") or str(cause or "no answer"),
        where="tp",
        next_step="close this engine and make a new one",
    )


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1][:500] if lines else "it said nothing, as killed processes do"


def _end(
    processes: Mapping[int, subprocess.Popen[bytes]],
    place: Path | None,
    claim: BinaryIO | None,
    patience: float = _LEAVING_SECONDS,
) -> None:
    """Wait a little, then insist; nothing is left behind."""
    until = time.monotonic() + patience
    for process in processes.values():
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)
    if claim is not None:
        claim.close()
