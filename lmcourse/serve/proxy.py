"""Reaching a server of this machine from the browser that shows JupyterLab, without ssh forwarding.

    browser ──→ JupyterLab or JupyterHub, the one port that is open ──→ /proxy/PORT/ ──→ 127.0.0.1:PORT

jupyter-server-proxy forwards the path after /proxy/PORT and names what came before it in X-Forwarded-Prefix. A page
whose links are relative needs nothing else; one that builds addresses needs the prefix as root path.

Lesson: 5 (a page through the proxy)
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["ForwardedPrefix", "find_lab_prefix", "proxied_path"]

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

_PREFIX = re.compile(rb"(/[A-Za-z0-9._~@%+-]+)+")


class ForwardedPrefix:
    """An ASGI app around another: a request that came through a proxy gets the proxy's prefix as root path.

    The prefix is taken per request, so that one server works directly, forwarded by ssh and behind the proxy.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            prefix = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").rstrip(b"/")
            if _PREFIX.fullmatch(prefix):  # whoever talks to us directly may write anything there
                scope = {**scope, "root_path": prefix.decode("ascii")}
        await self._app(scope, receive, send)


def proxied_path(port: int, environment: Mapping[str, str] | None = None) -> str | None:
    """Path under which JupyterLab's browser finds a port of this machine; None outside Jupyter or without the proxy."""
    prefix = find_lab_prefix(os.environ if environment is None else environment)
    if prefix is None or importlib.util.find_spec("jupyter_server_proxy") is None:
        return None
    return f"{prefix}proxy/{port}/"


def find_lab_prefix(environment: Mapping[str, str]) -> str | None:
    """Where the JupyterLab around this process (a notebook's kernel, or a terminal) has its own pages, such as "/"."""
    if prefix := environment.get("JUPYTERHUB_SERVICE_PREFIX"):
        return prefix.rstrip("/") + "/"
    if url := environment.get("JUPYTER_SERVER_URL"):  # set in JupyterLab's terminals
        return urlsplit(url).path.rstrip("/") + "/"
    parent = environment.get("JPY_PARENT_PID", "")  # set in kernels
    if not parent.isdecimal() or importlib.util.find_spec("jupyter_server") is None:
        return None
    from jupyter_server.serverapp import list_running_servers

    for server in list_running_servers():
        if server.get("pid") == int(parent):
            return str(server["base_url"]).rstrip("/") + "/"
    return None
