"""Ranks that torchrun started, of which one is killed or hangs while they decode: an error within seconds, no wait."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch.distributed import HashStore

from lmcourse.engine import crew_meeting
from lmcourse.engine.crew_meeting import Pulse, meet_under_torchrun
from lmcourse.errors import MachineError

DECODES = """
import os, sys
from pathlib import Path
from lmcourse import GenerationConfig, TurbomindEngineConfig, model_path
from lmcourse.engine import Engine
from lmcourse.errors import MachineError

folder, rank = Path(sys.argv[1]), os.environ["RANK"]
(folder / rank).write_text(str(os.getpid()))
try:
    engine = Engine.from_folder(model_path("tiny-chat"), TurbomindEngineConfig(dtype="float32", tp=2), device="cpu")
    for number in range(1000):
        engine.add([5, 6, 7], GenerationConfig(max_new_tokens=200, ignore_eos=True))
        while engine.has_work:
            engine.step()
            (folder / "decoding").touch()
except MachineError as error:
    (folder / f"error-{rank}").write_text(str(error))
    raise SystemExit(f"{error}")
"""


def wait_for(condition: Callable[[], object], seconds: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


@contextlib.contextmanager
def running(folder: Path, *machines: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """One torchrun for each list of flags; two ranks that decode."""
    (folder / "decodes.py").write_text(DECODES)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.getcwd()}
    words = [sys.executable, "-m", "torch.distributed.run"]
    agents = [
        subprocess.Popen(
            [*words, *flags, str(folder / "decodes.py"), str(folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for flags in machines
    ]  # fmt: skip
    try:
        wait_for((folder / "decoding").exists, 120)
        yield agents
    finally:
        for rank in "01":
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / rank).read_text()), signal.SIGKILL)
        for agent in agents:
            agent.kill()
            agent.communicate()


def send(folder: Path, rank: int, number: int) -> None:
    os.kill(int((folder / str(rank)).read_text()), number)


@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_ends_with_an_error_when_a_rank_is_killed(tmp_path: Path, victim: int) -> None:
    with running(tmp_path, ["--nproc-per-node", "2", "--standalone"]) as (agent,):
        send(tmp_path, victim, signal.SIGKILL)
        seconds = wait_for(lambda: agent.poll() is not None, 120)  # gloo itself would wait for 5 minutes
        assert agent.returncode != 0
        told = agent.stderr.read()
    print(f"torchrun ended after {seconds:.1f} s")
    assert "SIGKILL" in told, told[-2000:]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def machines() -> list[list[str]]:
    """Two, as far as torchrun knows."""
    port = free_port()
    same = ["--nproc-per-node", "1", "--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", port]
    return [[*same, "--node-rank", str(rank)] for rank in (0, 1)]


@pytest.mark.soak
@pytest.mark.parametrize(("victim", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_rank_lost_on_another_machine_is_an_error_and_no_wait(tmp_path: Path, victim: int, number: int) -> None:
    with running(tmp_path, *machines()) as agents:
        send(tmp_path, victim, number)
        noticed = tmp_path / f"error-{1 - victim}"
        seconds = wait_for(noticed.exists, 120)
        more = wait_for(lambda: agents[1 - victim].poll() is not None, 120)
        assert agents[1 - victim].returncode != 0
    print(f"an error after {seconds:.1f} s, torchrun's end {more:.1f} s later: {noticed.read_text()}")
    assert "a rank of this engine was lost" in noticed.read_text()


def test_pulse_that_stands_still_is_lost(monkeypatch) -> None:
    monkeypatch.setattr(crew_meeting, "_BEAT_SECONDS", 0.01)
    store = HashStore()
    first = Pulse(lambda: store, 0, 2)
    wait_for(lambda: store.add("pulse-0", 0) > 20, 60)
    first.watch()  # who has not come is not lost
    store.add("pulse-1", 1)
    with pytest.raises(MachineError, match="rank 1 has said nothing"):
        wait_for(first.watch, 60)
    first.stop()


def test_pulse_that_goes_on_is_not_lost_however_long_the_machine_stood_still() -> None:
    store, seen = HashStore(), {}
    pulse = Pulse(HashStore, 0, 2)
    pulse.stop()
    for look in range(100):  # now and then as many looks as may be before the other's next beat
        if look % (crew_meeting._MOST_LOOKS + 1) == 0:
            store.add("pulse-1", 1)
        assert pulse._look(store, seen) is None
    assert [pulse._look(store, seen) is None for _ in range(crew_meeting._MOST_LOOKS + 1)][-1] is False


def test_pulse_without_its_store_is_lost() -> None:
    def connect():
        raise RuntimeError("connection refused\nand more")

    pulse = Pulse(connect, 0, 2)
    with pytest.raises(MachineError, match="store does not answer: connection refused"):
        wait_for(pulse.watch, 20)


def test_meet_under_torchrun_elsewhere() -> None:
    assert meet_under_torchrun({}) is None
    assert meet_under_torchrun({"WORLD_SIZE": "2", "RANK": "0"}) is None  # another launcher's
