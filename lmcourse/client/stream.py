"""RemoteStream: the answers of one call as they come from a server, piece by piece, and whole at the end.

    requests ── one coroutine each ──→ a queue ──→ the caller's `for piece in stream`

The same contract as the pipeline's AnswerStream, so that whoever shows an answer need not know where it is computed.
The piece that ends an answer waits for the server's own count of tokens, which comes last.

Lesson: 5 (streaming)
"""

from __future__ import annotations

import asyncio
import dataclasses
import queue
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from lmcourse.client.background import EventLoop
from lmcourse.client.wire import Piece, Usage, read_pieces, read_usage
from lmcourse.config import Response
from lmcourse.errors import EngineClosedError
from lmcourse.text.session import PieceStream

__all__ = ["RemoteStream"]


@dataclass(frozen=True)
class _Arrival:
    """A chunk of one prompt's stream; or its end, with the error if there was one."""

    place: int
    chunk: dict[str, Any] | None = None
    error: Exception | None = None


class RemoteStream:
    """An iterator of Response pieces; `responses` holds what has come so far, whole when the iteration has ended.

    Closing it (or leaving its `with` block, or dropping it) closes the connections, at which a server stops computing.
    """

    def __init__(self, loop: EventLoop, on_end: Callable[[PieceStream], None] | None = None) -> None:
        self._loop, self._on_end = loop, on_end
        self._box: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        self._answers: dict[int, _Answers] = {}
        self._running: dict[int, Future[None]] = {}
        self._ready: deque[Response] = deque()
        self._ended = False

    def expect(self, chunks: AsyncIterator[dict[str, Any]], start: Response, n: int) -> None:
        """Ask for one more prompt's n answers; `start` carries its place in the batch."""
        place = len(self._answers)
        self._answers[place] = _Answers(start, n)
        self._running[place] = self._loop.start(_pump(place, chunks, self._box))

    @property
    def responses(self) -> list[Any]:
        """The answers so far in the order of their prompts: a Response each, or a list of n where n > 1."""
        return [answers.responses() for answers in self._answers.values()]

    def __iter__(self) -> RemoteStream:
        return self

    def __next__(self) -> Response:
        try:
            while not self._ready:
                if not self._running:
                    self.close()
                    raise StopIteration
                self._receive(self._box.get())
        except BaseException:
            self.close()
            raise
        return self._ready.popleft()

    def _receive(self, arrival: _Arrival) -> None:
        if arrival.error is not None:
            raise arrival.error
        answers = self._answers[arrival.place]
        if arrival.chunk is not None:
            self._ready.extend(answers.append(arrival.chunk))
        else:
            del self._running[arrival.place]
            self._ready.extend(answers.last_pieces())

    def close(self) -> None:
        """End what is still running; what has come stays in `responses`. Closing twice is fine."""
        if self._ended:
            return
        self._ended = True
        self._ready.clear()
        for future in self._running.values():
            future.cancel()
        self._running.clear()
        if self._on_end is not None:
            self._on_end(self)

    def __enter__(self) -> RemoteStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        for future in self._running.values():
            future.cancel()


async def _pump(place: int, chunks: AsyncIterator[dict[str, Any]], box: queue.SimpleQueue[_Arrival]) -> None:
    """Carry chunks to the caller's thread, and say how it ended."""
    try:
        async for chunk in chunks:
            box.put(_Arrival(place, chunk))
    except asyncio.CancelledError:  # by close() of the stream, which does not listen any more, or of the client
        box.put(_Arrival(place, error=EngineClosedError("the client was closed", next_step="make a new one")))
        raise
    except Exception as error:
        box.put(_Arrival(place, error=error))
    else:
        box.put(_Arrival(place))


class _Answers:
    """The n answers to one prompt as they grow."""

    def __init__(self, start: Response, n: int) -> None:
        self._totals = [dataclasses.replace(start, index=index, token_ids=[]) for index in range(n)]
        self._held: list[Piece] = []  # those that end an answer
        self._usage: Usage | None = None

    def append(self, chunk: dict[str, Any]) -> list[Response]:
        """Take in a chunk; give back what may be shown now."""
        self._usage = read_usage(chunk) or self._usage
        pieces = read_pieces(chunk)
        self._held += [piece for piece in pieces if piece.finish_reason is not None]
        return [self._grow(piece) for piece in pieces if piece.finish_reason is None]

    def last_pieces(self) -> list[Response]:
        """What was held back, with the server's count in place of ours."""
        pieces = [self._grow(piece) for piece in self._held]
        self._held.clear()
        if self._usage is not None:
            for response in [*self._totals, *pieces]:
                response.input_token_len = self._usage.prompt_tokens
                if len(self._totals) == 1:
                    response.generate_token_len = self._usage.completion_tokens
        return pieces

    def _grow(self, piece: Piece) -> Response:
        total = self._totals[piece.index]
        total.text += piece.text
        total.token_ids += piece.token_ids
        if piece.logprobs:
            total.logprobs = [*(total.logprobs or ()), *piece.logprobs]
        total.generate_token_len += piece.num_tokens
        total.finish_reason = piece.finish_reason
        logprobs = list(piece.logprobs) or None
        return dataclasses.replace(total, text=piece.text, token_ids=list(piece.token_ids), logprobs=logprobs)

    def responses(self) -> Any:
        copies = [dataclasses.replace(total, token_ids=list(total.token_ids)) for total in self._totals]
        return copies[0] if len(copies) == 1 else copies
