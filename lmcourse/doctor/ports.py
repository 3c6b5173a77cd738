"""Who listens on the ports that the lesson uses.

Linux writes every listening socket into /proc/net/tcp with an inode; the process that holds it has a link to that inode
among its file descriptors. Other users' processes cannot be looked into and stay "another process".

Lesson: 1 (ports)
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

__all__ = ["find_listeners", "listening_inodes"]

_LISTEN = "0A"  # the socket state in /proc/net/tcp, include/net/tcp_states.h


def listening_inodes(table: str) -> dict[int, str]:
    """port → socket inode, from the text of /proc/net/tcp or tcp6."""
    found = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            found[int(fields[1].rsplit(":", 1)[1], 16)] = fields[9]
    return found


def _holder(inode: str, processes: Iterable[Path]) -> str | None:
    for process in processes:
        try:
            if any(str(link.readlink()) == f"socket:[{inode}]" for link in (process / "fd").iterdir()):
                words = (process / "cmdline").read_text(errors="replace").split("\0")
                return f"{' '.join(Path(word).name for word in words[:3] if word)} (process {process.name})"
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return None


def find_listeners(ports: Iterable[int], proc: Path = Path("/proc")) -> dict[int, str]:
    """Those of `ports` that are in use on this machine → who listens, as far as it can be told."""
    tables = [proc / "net" / name for name in ("tcp", "tcp6")]
    inodes: dict[int, str] = {}
    for table in tables:
        if table.is_file():
            inodes.update(listening_inodes(table.read_text()))
    busy = [port for port in ports if (port in inodes if inodes else _refuses_to_bind(port))]
    processes = [path for path in proc.iterdir() if path.name.isdigit()] if busy and proc.is_dir() else []
    return {port: _holder(inodes.get(port, ""), processes) or "another process" for port in busy}


def _refuses_to_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
