"""Who listens: on this machine's real sockets, and on written tables."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from lmcourse.doctor.ports import find_listeners, listening_inodes

TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:5B25 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0
   1: 0100007F:1776 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0
"""


def test_listening_inodes_takes_only_listeners():
    assert listening_inodes(TABLE) == {23333: "4711"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_find_listeners_names_this_process(family):
    with socket.socket(family) as listening, socket.socket() as bound_only:
        try:
            listening.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        except OSError as error:
            pytest.skip(f"no such address family here: {error}")
        listening.listen()
        bound_only.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        found = find_listeners([port, bound_only.getsockname()[1]])
    assert list(found) == [port]
    assert f"process {os.getpid()}" in found[port]


def test_find_listeners_without_proc_tries_to_bind(tmp_path):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert find_listeners([port], tmp_path / "none") == {port: "another process"}
    assert find_listeners([port], tmp_path / "none") == {}
