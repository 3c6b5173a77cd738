"""A server in this process: bound before it starts, so that its address is known and nobody else has it.

    with running(make_app(pipe)) as server:
        print(server.url)

Port 0 takes a free port. Stopping refuses new requests, finishes what runs within the grace or returns it as it is, and
gives the port back. What the process holds when a server starts, its code above all, is no garbage: a full collection,
which stops all threads for as long as it takes to walk through that, passes it over until the server stops.

Lesson: 5 (starting and stopping)
"""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from lmcourse.errors import MachineError
from lmcourse.serve.app import service_of
from lmcourse.serve.listening import local_url

__all__ = ["Server", "bind", "running"]

_AFTER_GRACE_SECONDS = 5  # for what was returned to be sent


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, or MachineError that says who is in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named so that asyncio sends what is written at once: small events would wait 40 ms for acknowledgements
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise _not_bound(host, port, error) from error
    return listener


def _not_bound(host: str, port: int, error: Exception) -> MachineError:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return MachineError(
            f"port {port} is in use",
            expected="a free port",
            got=f"another program listens on {host}:{port}",
            next_step="stop it, or choose another port (--server-port; 0 takes a free one)",
        )
    advice = "choose a port of 1024 or more" if number == errno.EACCES else "check the name and the port"
    return MachineError(f"cannot listen on {host}:{port}", got=str(error), next_step=advice)


class Server(uvicorn.Server):
    """uvicorn, which lets the service finish its requests before it waits for the connections to end."""

    def __init__(
        self, app: FastAPI, listener: socket.socket, *, tls: tuple[Path, Path] | None = None, log_level: str = "error"
    ) -> None:
        """`tls` is a key and a certificate (PEM files)."""
        self.service = service_of(app)
        self._listener = listener
        self.url = local_url(listener, "https" if tls else "http")  # asked now: the listener is closed at the end
        self.port: int = listener.getsockname()[1]
        self._on_started: Callable[[], None] = lambda: None
        grace = self.service.settings.grace_seconds + _AFTER_GRACE_SECONDS
        super().__init__(
            uvicorn.Config(
                app,
                log_level=log_level,
                access_log=log_level in ("info", "debug", "trace"),
                timeout_graceful_shutdown=int(grace) + 1,
                ssl_keyfile=tls[0] if tls else None,
                ssl_certfile=tls[1] if tls else None,
            )
        )

    async def listen(self, on_started: Callable[[], None] = lambda: None) -> None:
        """Serve until it is told to stop; on_started is called when it answers and a signal ends it in good order."""
        self._on_started = on_started
        await self.serve(sockets=[self._listener])

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own, with what is there already kept out of the garbage collector's way."""
        gc.collect()
        gc.freeze()
        try:
            await super().serve(sockets)
        finally:
            gc.unfreeze()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own."""
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own, while the service finishes what runs."""
        finishing = asyncio.create_task(self.service.finish())
        await super().shutdown(sockets)
        if self.force_exit:
            await self.service.engine.aclose()
        await finishing
        if self.force_exit:  # uvicorn leaves the application waiting for its end, and logs that as a failure
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal begins the end; a second one does not wait for answers."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


@contextmanager
def running(
    app: FastAPI, host: str = "127.0.0.1", port: int = 0, *, tls: tuple[Path, Path] | None = None
) -> Iterator[Server]:
    """The application on a thread of its own while the block runs; `tls` is a key and a certificate."""
    listener = bind(host, port)
    server = Server(app, listener, tls=tls)
    thread = threading.Thread(target=asyncio.run, args=(server.listen(),), name="lmcourse-server", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise MachineError("the server did not start", next_step="see its log above")
            thread.join(0.005)
        yield server
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
