"""A server in the notebook's own process, while a `with` block or the notebook lasts.

    server = serve_in_background("tiny-chat")        an API server; server.url, server.client()
    page = chat_in_background(server.url)            a chat page over it; shown as a link that JupyterLab can open
    page = show_pictures_in_background(pipe)         the lesson's form: a picture and a question

Running the cell again first stops the server that it started before, frees its memory and its port, and then starts
anew: a server has a name, and a name is held once. The list of what runs is the interpreter's own list of threads.

Lesson: 5 (start, stop, start again)
"""

from __future__ import annotations

import asyncio
import html
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lmcourse.config import ChatTemplateConfig, TurbomindEngineConfig
from lmcourse.errors import MachineError
from lmcourse.serve.listening import local_url
from lmcourse.serve.proxy import proxied_path

if TYPE_CHECKING:
    import socket

    import uvicorn

    from lmcourse.client import Client
    from lmcourse.pipeline import Pipeline
    from lmcourse.serve.settings import ServerSettings

__all__ = [
    "BackgroundServer",
    "chat_in_background",
    "run_until_stopped",
    "serve_in_background",
    "show_pictures_in_background",
]

_PAGE_GRACE_SECONDS = 2  # a page's browsers hold connections open for as long as they may


def serve_in_background(
    model: str | Path | Pipeline | None = None,
    backend_config: TurbomindEngineConfig | None = None,
    settings: ServerSettings | None = None,
    *,
    chat_template_config: ChatTemplateConfig | None = None,
    port: int = 0,
    name: str = "server",
) -> BackgroundServer:
    """An API server for a model, or for a Pipeline, which stays the caller's to close. Port 0 is any that is free."""
    _stop_earlier(name)
    from lmcourse.pipeline import Pipeline, load_pipeline
    from lmcourse.serve.app import make_app
    from lmcourse.serve.running import Server, bind

    with ExitStack() as opened:
        listening = opened.enter_context(bind("127.0.0.1", port))
        if isinstance(model, Pipeline):
            pipe = model
        else:
            made = load_pipeline(model, backend_config=backend_config, chat_template_config=chat_template_config)
            pipe = opened.enter_context(made)
        server = Server(make_app(pipe, settings), listening)
        return BackgroundServer(server, listening, name=name, opened=opened)


def chat_in_background(
    url_or_pipe: str | Pipeline, *, api_key: str | None = None, port: int = 0, name: str = "chat page"
) -> BackgroundServer:
    """The chat page over a server's address, or over a Pipeline, which stays the caller's to close."""
    _stop_earlier(name)
    from lmcourse.serve.web import create_web_app, takes_pictures

    with _open_page(url_or_pipe, api_key, port) as (talker, listening, opened):
        app = create_web_app(talker, title="Chat with the model", takes_pictures=takes_pictures(talker))
        return BackgroundServer(_page_server(app), listening, name=name, opened=opened)


def show_pictures_in_background(
    url_or_pipe: str | Pipeline, *, api_key: str | None = None, port: int = 0, name: str = "picture page"
) -> BackgroundServer:
    """The lesson's form, a picture and a question, over a server's address or a Pipeline."""
    _stop_earlier(name)
    from lmcourse.serve.picture_page import picture_page

    with _open_page(url_or_pipe, api_key, port) as (talker, listening, opened):
        app = picture_page(talker, title="Ask about a picture")
        return BackgroundServer(_page_server(app), listening, name=name, opened=opened)


@contextmanager
def _open_page(
    url_or_pipe: str | Pipeline, api_key: str | None, port: int
) -> Iterator[tuple[Any, socket.socket, ExitStack]]:
    """Whoever answers, a port, and what is to be closed with the page, unless a server takes it over."""
    from lmcourse.client import Client
    from lmcourse.serve.running import bind

    with ExitStack() as opened:
        talker: Any = url_or_pipe
        if isinstance(url_or_pipe, str):
            talker = opened.enter_context(Client(url_or_pipe, api_key))
        yield talker, opened.enter_context(bind("127.0.0.1", port)), opened


def run_until_stopped(app: Any, listening: socket.socket) -> None:
    """Show a page until Ctrl-C or a request to end."""
    try:
        asyncio.run(_page_server(app).serve(sockets=[listening]))
    except KeyboardInterrupt:  # uvicorn hands the signal on when it has stopped
        return


def _stop_earlier(name: str) -> None:
    """Stop the server of that name in this process, if there is one."""
    for thread in threading.enumerate():
        if isinstance(thread, _ServerThread) and thread.name == name:
            thread.stop()


class BackgroundServer:
    """A running server. Leaving its `with` block, or `close`, stops it and frees what it holds."""

    def __init__(self, server: uvicorn.Server, listening: socket.socket, *, name: str, opened: ExitStack) -> None:
        """Takes over what `opened` holds: it is closed, last opened first, when the server has stopped."""
        self.name, self.url = name, local_url(listening)
        self.port = int(listening.getsockname()[1])
        self._thread = _ServerThread(server, listening, name, opened.pop_all().close)

    @property
    def proxied_path(self) -> str | None:
        """Where the browser that shows JupyterLab finds it; None outside Jupyter."""
        return proxied_path(self.port)

    @property
    def running(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def client(self, api_key: str | None = None) -> Client:
        """A client of this server."""
        from lmcourse.client import Client

        return Client(self.url, api_key)

    def close(self) -> None:
        """Stop, and free model and port. Closing twice is fine."""
        self._thread.stop()

    def __enter__(self) -> BackgroundServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"BackgroundServer({self.name}, {'running' if self.running else 'stopped'})"

    def _repr_html_(self) -> str:
        """A link that works in the browser at hand."""
        target = html.escape(self.proxied_path or f"{self.url}/")
        link = f'<a href="{target}" target="_blank">open it in a tab</a>'
        return f"<p>{html.escape(repr(self))}: {link}</p>" if self.running else f"<p>{html.escape(repr(self))}</p>"


class _ServerThread(threading.Thread):
    """Runs a server, and frees what it held once it has stopped, however that came about."""

    def __init__(self, server: uvicorn.Server, listening: socket.socket, name: str, free: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._server, self._listening, self._free = server, listening, free
        self.start()
        while not server.started:
            self.join(0.01)
            if not self.is_alive():
                raise MachineError("the server did not start", next_step="its log, above, says why")

    def run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._listening]))
        finally:
            self._free()

    def stop(self) -> None:
        self._server.should_exit = True
        self.join()


def _page_server(app: Any) -> uvicorn.Server:
    import uvicorn

    class PageServer(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Browsers' connections are cut when the grace is over; that is the plan, and no error to be logged."""
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=_PAGE_GRACE_SECONDS)
    return PageServer(config)
