"""AnswerStream: the answers of one call as they come, piece by piece, and whole at the end.

Lesson: 2 (streaming)
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lmcourse.config import Response
from lmcourse.text.session import PieceStream

if TYPE_CHECKING:
    from lmcourse.engine import Dispatcher, StepOutput

__all__ = ["AnswerStream"]


class AnswerStream:
    """An iterator of Response pieces; `responses` holds what has come so far, whole when the iteration has ended.

    Closing it (or leaving its `with` block, or dropping it) ends the requests that are still running.
    """

    def __init__(self, dispatcher: Dispatcher, on_end: Callable[[PieceStream], None] | None = None) -> None:
        self._dispatcher, self._on_end = dispatcher, on_end
        self.box: deque[StepOutput] = deque()  # filled by the dispatcher
        self._totals: dict[int, _Total] = {}
        self._running: set[int] = set()
        self._ready: deque[Response] = deque()
        self._ended = False

    def expect(self, request_id: int, start: Response) -> None:
        """Wait for one more request; `start` carries its place in the batch."""
        self._totals[request_id] = _Total(start)
        self._running.add(request_id)

    @property
    def responses(self) -> list[Any]:
        """The answers so far in the order of their prompts: a Response each, or a list of n where n > 1."""
        grouped: dict[int, list[Response]] = {}
        for total in self._totals.values():
            grouped.setdefault(total.start.session_id, []).append(total.response())
        return [group[0] if len(group) == 1 else group for group in grouped.values()]

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> Response:
        if not self._ready:
            if not self._running:
                self.close()
                raise StopIteration
            try:
                self._ready.extend(map(self._receive, self._dispatcher.take(self.box)))
            except BaseException:
                self.close()
                raise
        return self._ready.popleft()

    def _receive(self, output: StepOutput) -> Response:
        if output.error is not None:
            raise output.error
        if output.finish_reason is not None:
            self._running.discard(output.request_id)
        return self._totals[output.request_id].append(output)

    def close(self) -> None:
        """End what is still running; what has come stays in `responses`. Closing twice is fine."""
        if self._ended:
            return
        self.cancel()
        if self._on_end is not None:
            self._on_end(self)

    def cancel(self) -> None:
        """Close without telling anybody: the call never began."""
        self._ended = True
        self._ready.clear()
        self._dispatcher.abort(self._totals)
        self._running.clear()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._ended:
            self._dispatcher.abandon(self._totals)


class _Total:
    """One answer as it grows."""

    def __init__(self, start: Response) -> None:
        self.start = start
        self._texts: list[str] = []
        self._last: StepOutput | None = None
        self._token_ids: list[int] = []
        self._logprobs: list[dict[int, float]] = []

    def append(self, output: StepOutput) -> Response:
        """Take in what is new and give it back as a piece."""
        self._last = output
        self._texts.append(output.text)
        self._token_ids += output.token_ids
        self._logprobs += output.logprobs or ()
        return self._make(output.text, output.token_ids, output.logprobs)

    def response(self) -> Response:
        """All of it."""
        return self._make("".join(self._texts), self._token_ids, self._logprobs or None)

    def _make(self, text: str, token_ids: list[int], logprobs: list[dict[int, float]] | None) -> Response:
        return dataclasses.replace(
            self.start,
            text=text,
            generate_token_len=len(self._token_ids),
            finish_reason=self._last.finish_reason if self._last else None,
            token_ids=list(token_ids),
            logprobs=logprobs,
        )
