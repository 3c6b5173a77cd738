"""Other engines on the same work: a server of LMDeploy or vLLM that lives in an environment of its own.

    LMCOURSE_PEERS="lmdeploy=/opt/lmdeploy/bin/python, vllm=http://127.0.0.1:8000"

A name with a Python starts that engine's server on a free port for as long as it is measured; a name with an address
takes a server that runs already (any with OpenAI's interface, under any name). Nothing is installed, and nothing of
theirs is imported here: requests go over HTTP, as a user's do, and so must ours that are set beside them.

Lesson: 7 (other engines)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lmcourse.errors import ConfigError, MachineError

__all__ = ["PEERS_VARIABLE", "Peer", "find_peers", "serve_peer"]

PEERS_VARIABLE = "LMCOURSE_PEERS"
_COMMANDS = {  # what comes after that environment's python
    "lmdeploy": "-m lmdeploy serve api_server {model} --server-name 127.0.0.1 --server-port {port}",
    "vllm": "-m vllm.entrypoints.openai.api_server --model {model} --host 127.0.0.1 --port {port}",
}
_EXAMPLE = f'{PEERS_VARIABLE}="lmdeploy=/opt/lmdeploy/bin/python, vllm=http://127.0.0.1:8000"'


@dataclass(frozen=True)
class Peer:
    """`place` is the address of a running server, or the python of an environment that can start one."""

    name: str
    place: str

    @property
    def runs_already(self) -> bool:
        return self.place.startswith(("http://", "https://"))


def find_peers(environment: Mapping[str, str] | None = None) -> list[Peer]:
    """The peers that LMCOURSE_PEERS names; none without it. ConfigError for an entry that cannot be meant."""
    stated = (os.environ if environment is None else environment).get(PEERS_VARIABLE, "")
    return [_read_peer(entry.strip()) for entry in stated.split(",") if entry.strip()]


def _read_peer(entry: str) -> Peer:
    name, _, place = (part.strip() for part in entry.partition("="))
    peer = Peer(name, place)
    if not name or not place:
        raise ConfigError("a peer is NAME=PLACE", expected=_EXAMPLE, got=entry, where=PEERS_VARIABLE)
    if peer.runs_already:
        return peer
    if name not in _COMMANDS:
        expected = f"{' or '.join(_COMMANDS)}, or the address of a server that runs already"
        raise ConfigError(f"nobody knows how to start {name!r}", expected=expected, got=entry, where=PEERS_VARIABLE)
    if shutil.which(Path(place).expanduser()) is None:
        raise ConfigError(
            f"the python of {name} is not there", expected="a file that can be run", got=place, where=PEERS_VARIABLE
        )
    return peer


@contextmanager
def serve_peer(peer: Peer, model: str | Path, *, start_seconds: float = 300.0) -> Iterator[str]:
    """The address of the peer's server; one that was started here ends with the block, and its children with it."""
    if peer.runs_already:
        yield peer.place.rstrip("/")
        return
    url = f"http://127.0.0.1:{_free_port()}"
    words = _COMMANDS[peer.name].format(model="{model}", port=url.rpartition(":")[2]).split()
    command = [str(Path(peer.place).expanduser()), *(str(model) if word == "{model}" else word for word in words)]
    with tempfile.TemporaryFile() as log:
        # Its own group, so that its workers can be ended, too; its own environment, so that no path of ours leads it.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            _wait(peer, process, url, log, start_seconds)
            yield url
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(peer: Peer, process: subprocess.Popen[bytes], url: str, log: IO[bytes], seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if _answers(url):
            return
        time.sleep(0.2)
    log.seek(0)
    last = log.read()[-600:].decode("utf-8", errors="replace").strip()
    how = "does not answer" if process.poll() is None else f"ended with status {process.returncode}"
    raise MachineError(
        f"the server of {peer.name} {how}", expected=f"an answer within {seconds:g} s",
        got=last or "it printed nothing", where=peer.place,
        next_step=f"start it by hand, and name its address: {peer.name}=http://127.0.0.1:PORT",
    )  # fmt: skip


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/v1/models", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
            return
