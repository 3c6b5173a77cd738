r"""Server-sent events: how a server streams an answer over plain HTTP. Bytes in, the data of each event out.

    data: {"choices": [{"delta": {"content": "Hel"}}]}\n
    \n                                                      an empty line ends the event
    : still here\n                                          a comment, to keep the connection open
    data: [DONE]\n
    \n

Bytes arrive cut anywhere, within a character as well. Lines end at \n, \r or \r\n and nowhere else: a text may hold
other line separators (U+2028, say), at which str.splitlines would cut it.

Lesson: 5 (streaming)
"""

from __future__ import annotations

from collections.abc import AsyncIterator

__all__ = ["EventReader", "read_events"]


class EventReader:
    """Takes bytes as they come; gives back the data of every event that is complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[str]:
        """Data of the events that this piece completes, in order."""
        text = self._rest + piece
        # a \r at the very end may be the first half of \r\n: wait for what follows
        held = b"\r" if text.endswith(b"\r") else b""
        text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._rest = rest + held
        complete = [self._take(line.decode("utf-8", errors="replace")) for line in lines]
        return [data for data in complete if data is not None]

    def _take(self, line: str) -> str | None:
        if line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
            return None
        if line or not self._data:  # other fields and comments; empty lines between events
            return None
        data, self._data = "\n".join(self._data), []
        return data


async def read_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of each event of a stream. What follows the last empty line is no event and is dropped."""
    reader = EventReader()
    async for piece in pieces:
        for data in reader.feed(piece):
            yield data
