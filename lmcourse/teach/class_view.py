"""class_view: the live class view in a notebook. It looks every two seconds, on a thread; the kernel stays free.

    view = class_view("http://SERVER:23333", KEY)        running the cell again ends the view before
    view.drawing()                                       this moment as a figure, to keep
    view.close()                                         or: the server is gone for a minute

Where widgets do not run, the picture of the first moment and its words stay. Everything comes from the kernel: the
browser asks nobody, and does not learn the key.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import contextlib
import html
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any

from lmcourse.client import Connection, EventLoop
from lmcourse.errors import ConfigError, KeyRefusedError, ServerError
from lmcourse.teach.class_chart import class_chart
from lmcourse.teach.class_table import Snapshot, class_summary, class_table
from lmcourse.teach.drawing import Drawing, show_with_words

__all__ = ["ClassView", "class_view"]

_TIMEOUT_SECONDS = 5.0


def class_view(
    server_url: str,
    key: str | None = None,
    *,
    every_seconds: float = 2.0,
    patience_seconds: float = 60.0,
    name: str = "class view",
) -> ClassView:
    """Who of a class runs what, live. The key is the instructor's; None: LMCOURSE_SERVER_KEY of the environment.

    A view of the same name that runs is ended first. ServerError and KeyRefusedError say why there is nothing to see;
    a server that goes away later is waited for as long as patience_seconds.
    """
    if not every_seconds >= 0.1:
        raise ConfigError("every_seconds is too short", expected="0.1 or more", got=every_seconds)
    for thread in threading.enumerate():
        if isinstance(thread, _Watch) and thread.name == name:
            thread.stop()
    watch = _Watch(server_url, os.environ.get("LMCOURSE_SERVER_KEY") if key is None else key, name)
    return ClassView(watch, every_seconds, patience_seconds)


class ClassView:
    """A view that follows its server until it is closed."""

    def __init__(self, watch: _Watch, every_seconds: float, patience_seconds: float) -> None:
        self._watch, self._patience_seconds = watch, patience_seconds
        self._answered_at = time.monotonic()
        self._gone = False
        self._widget: Any = None
        try:
            self.snapshot: Snapshot = watch.look()
        except BaseException:
            watch.free()
            raise
        self.state = f"Live, every {every_seconds:g} s"
        watch.begin(self._step, every_seconds, lambda: self._tell("Ended; run the cell again to look again"))

    @property
    def running(self) -> bool:
        """Whether it still looks."""
        return self._watch.is_alive()

    def drawing(self) -> Drawing:
        """The newest moment as a figure."""
        return class_chart(self.snapshot)

    def close(self) -> None:
        """Look no more; what was seen last stays. Closing twice is fine."""
        self._watch.stop()

    @property
    def widget(self) -> Any:
        """The ipywidgets box: a line about the connection, and the table."""
        if self._widget is None:
            import ipywidgets

            self._widget = ipywidgets.VBox([ipywidgets.HTML(), ipywidgets.HTML(value=class_table(self.snapshot))])
            self._tell(self.state)
        return self._widget

    def _step(self) -> bool:
        """Look once; whether to go on."""
        try:
            self.snapshot = self._watch.look()
        except (KeyRefusedError, ConfigError) as error:
            self._tell(str(error))
            return False
        except ServerError as error:
            return self._wait_for_server(error)
        if self._gone:
            self._gone = False
            self._tell("Live again")
        self._answered_at = time.monotonic()
        if self._widget is not None:
            self._widget.children[1].value = class_table(self.snapshot)
        return True

    def _wait_for_server(self, error: ServerError) -> bool:
        if time.monotonic() - self._answered_at > self._patience_seconds:
            self._tell(f"Ended: {error.what}. Run the cell again when the server is back")
            return False
        self._gone = True
        seen = time.strftime("%H:%M:%S", time.localtime(self.snapshot["taken_at"]))
        self._tell(f"{error.what}; trying again. Below: as it was at {seen}")
        return True

    def _tell(self, state: str) -> None:
        """A line that a screen reader says when it changes."""
        self.state = state
        if self._widget is not None:
            self._widget.children[0].value = f'<p role="status" aria-live="polite"><b>{html.escape(state)}</b></p>'

    def __enter__(self) -> ClassView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return class_summary(self.snapshot)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self.drawing()._repr_mimebundle_()
        view = self.widget._repr_mimebundle_()
        return {
            **{kind: content for kind, content in view.items() if kind.startswith("application/")},
            **data,
        }, metadata

    def _ipython_display_(self) -> None:
        at = time.strftime("%H:%M:%S", time.localtime(self.snapshot["taken_at"]))
        show_with_words(self._repr_mimebundle_(), self.drawing().alt, f"In words, at {at}")


class _Watch(threading.Thread):
    """Calls a function again and again, and frees the connection when that ends, however it ends."""

    def __init__(self, url: str, key: str | None, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._connection = Connection(url, key, timeout_seconds=_TIMEOUT_SECONDS, max_connections=1)
        self._loop = EventLoop(f"{name}: connection")
        self._ended = threading.Event()
        self._looking: Future[Any] | None = None

    def look(self) -> Snapshot:
        """The server's snapshot of now."""
        self._looking = self._loop.start(self._connection.get("/class"))
        try:
            found: Snapshot = self._looking.result()
        except BaseException:
            self._looking.cancel()
            raise
        return found

    def begin(self, step: Callable[[], bool], every_seconds: float, on_stop: Callable[[], None]) -> None:
        """From now on, on this thread, until `step` says no; on_stop is called if somebody else ends it."""
        self._step, self._every_seconds, self._on_stop = step, every_seconds, on_stop
        self.start()

    def run(self) -> None:
        try:
            with contextlib.suppress(CancelledError):  # the look that was under way when it was stopped
                while not self._ended.wait(self._every_seconds) and self._step():
                    pass
            if self._ended.is_set():
                self._on_stop()
        finally:
            self.free()

    def stop(self) -> None:
        """End it, a look that is under way too, and wait for the end."""
        self._ended.set()
        if self._looking is not None:
            self._looking.cancel()
        self.join()

    def free(self) -> None:
        """Close the connection. Twice is fine."""
        if not self._loop.closed:
            self._loop.close(self._connection.close())
