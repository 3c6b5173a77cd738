"""Where a bound port is found, and by whom.

Lesson: 5 (what an open port means)
"""

from __future__ import annotations

import ipaddress
import socket

from lmcourse.serve.proxy import proxied_path

__all__ = ["is_open_to_others", "local_url", "where_to_find"]

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listening on all addresses includes this one


def is_open_to_others(host: str) -> bool:
    """Whether other machines can reach a server that listens there."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def local_url(listening: socket.socket, scheme: str = "http") -> str:
    """The address for programs on this machine."""
    host, port = listening.getsockname()[:2]
    host = _EVERYWHERE.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def where_to_find(listening: socket.socket, scheme: str = "http") -> list[str]:
    """Addresses to open: for this machine, and for the browser that shows JupyterLab, where there is one."""
    inside = proxied_path(listening.getsockname()[1])
    return [local_url(listening, scheme), *([f"{inside} in the browser that shows JupyterLab"] if inside else [])]
