"""The process of an answer: told which cells to load and what to call, it sends back what came out, and nothing else.

    grader → load: cells        runner → loaded | untried | raised
    grader → call: arguments    runner → returned: value | raised: text
                                runner → ask: function 3 of these arguments    grader → value | raised

Whatever the answer patches in here, it can only change the values that it sends. What they should have been is not in
this process, and the verdict is made in the other one.

Lesson: 9 (how grading is made safe)
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, BinaryIO

from .cells import CodeCell, find_answer
from .confine import Limits, choose_places, confine
from .plain import decode, encode, read_message, write_message
from .untried import is_untried

__all__ = ["main"]

_FILE = "<answer>"
_SHOWN_CHARACTERS = 400


def main() -> None:
    """Serve until the grader closes the pipe."""
    channel = _Channel()
    setup = channel.read()
    for name in setup["preload"]:
        with contextlib.suppress(ImportError):
            __import__(name)
    _hide_homework()
    places = choose_places(setup["home"], setup["package"], setup["hidden"])
    channel.write({"ready": confine(Limits(**setup["limits"]), places)})
    answer: Any = None
    while True:
        message = channel.read()
        if "load" in message:
            answer, reply = _load(message["load"])
        else:
            reply = _call(answer, message["call"], channel)
        channel.write(reply)


def _hide_homework() -> None:
    """`lmcourse.homework` becomes a module whose functions do nothing: checks in a cell are not what counts here."""
    silent = types.ModuleType("lmcourse.homework")
    silent.__getattr__ = _find_silent  # type: ignore[method-assign]
    sys.modules["lmcourse.homework"] = silent
    with contextlib.suppress(ImportError):
        setattr(__import__("lmcourse"), "homework", silent)  # noqa: B010 (no module declares it)


def _find_silent(name: str) -> Callable[..., None]:
    if name.startswith("__"):
        raise AttributeError(name)
    return _do_nothing


def _do_nothing(*_: Any, **__: Any) -> None:
    return None


class _Channel:
    """The pipes that were this process's stdin and stdout; whatever the answer prints goes nowhere."""

    def __init__(self) -> None:
        self._source: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._sink: BinaryIO = os.fdopen(os.dup(1), "wb")
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)

    def read(self) -> dict[str, Any]:
        return read_message(self._exactly)

    def write(self, message: dict[str, Any]) -> None:
        write_message(self._sink, message)

    def _exactly(self, count: int) -> bytes:
        data = self._source.read(count)
        if len(data) < count:
            os._exit(0)  # the grader has gone
        return data


def _load(wanted: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    cells = [CodeCell(cell["source"], cell["exercise"]) for cell in wanted["cells"]]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        found = find_answer(cells, wanted["exercise"], wanted["name"])
        if found is None:
            return None, {"missing": True}
        for statement in found.before:
            with contextlib.suppress(Exception):
                exec(compile(statement, "<notebook>", "exec"), namespace)
        for source in found.cells:
            exec(compile(source, _FILE, "exec"), namespace)
    except BaseException as error:
        return None, _raised(error)
    answer = namespace.get(wanted["name"])
    if wanted["name"] not in namespace:
        return None, {"raised": f"the exercise's cell defines nothing of the name {wanted['name']}"}
    if is_untried(answer):
        return None, {"untried": True}
    return answer, {"loaded": True}


def _call(answer: Callable[..., Any], arguments: Any, channel: _Channel) -> dict[str, Any]:
    try:
        given = decode(arguments, lambda entry: _Asked(channel, entry))
        return {"returned": encode(answer(*given))}
    except BaseException as error:
        return _raised(error)


def _raised(error: BaseException) -> dict[str, Any]:
    """What was raised, and where in the answer; never the text of a line, which can be of any length."""
    with contextlib.suppress(Exception):
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _FILE]
        where = f" (line {lines[-1]} of the cell)" if lines else ""
        said = f"{type(error).__name__}: {error}"[:_SHOWN_CHARACTERS]
        return {"raised": f"{said}{where}", "memory": isinstance(error, MemoryError)}
    return {"raised": "an error that cannot be shown", "memory": isinstance(error, MemoryError)}


class _Asked:
    """A function or iterator that stayed with the grader."""

    def __init__(self, channel: _Channel, entry: dict[str, Any]) -> None:
        self._channel, self._entry = channel, entry
        self._lent: list[Any] = []

    def __call__(self, *arguments: Any) -> Any:
        self._channel.write({"ask": self._entry["v"], "arguments": encode(arguments)})
        reply = self._channel.read()
        if "raised" in reply:
            raise RuntimeError(reply["raised"])
        if "ended" in reply:
            raise StopIteration
        return decode(reply["value"])

    def __iter__(self) -> _Asked:
        return self

    def __next__(self) -> Any:
        for tensor in self._lent:
            tensor.fill_(float("nan"))
        self._lent = []
        item = self()
        if self._entry.get("lends"):
            parts = item if isinstance(item, tuple | list) else [item]
            self._lent = [part for part in parts if hasattr(part, "fill_")]
        return item

    def __repr__(self) -> str:
        return str(self._entry.get("shown", "a function of the exercise"))
