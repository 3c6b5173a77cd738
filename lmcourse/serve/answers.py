"""Answers: the n answers of a request as they come, several streams as one.

Lesson: 5 (several answers at once)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType

from lmcourse.config import FinishReason
from lmcourse.engine import StepOutput, TokenStream

__all__ = ["Answers", "Total"]

Piece = tuple[int, StepOutput]  # which of the answers, and what is new in it


@dataclass
class Total:
    """One answer as far as it came."""

    texts: list[str] = field(default_factory=list)
    num_tokens: int = 0
    finish_reason: FinishReason | None = None

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(self.texts)

    def append(self, output: StepOutput) -> None:
        """Take in what is new."""
        self.texts.append(output.text)
        self.num_tokens += len(output.token_ids)
        self.finish_reason = output.finish_reason


class Answers:
    """To be read to the end or closed: a request that nobody reads would go on."""

    def __init__(
        self,
        streams: Sequence[TokenStream],
        on_piece: Callable[[int, StepOutput], None],
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_piece` is told of every piece as it comes (a clock), `on_close` once of the end."""
        self._streams, self._on_piece, self._on_close = streams, on_piece, on_close
        self._closed = False

    def __len__(self) -> int:
        return len(self._streams)

    def close(self) -> None:
        """End what is still running. Closing twice is fine."""
        for stream in self._streams:
            stream.close()
        if not self._closed:
            self._closed = True
            self._on_close()

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What is new in any of the answers, in the order in which it comes."""
        try:
            async with aclosing(self._merge() if len(self._streams) > 1 else self._alone()) as pieces:
                async for index, output in pieces:
                    self._on_piece(index, output)
                    yield index, output
        finally:
            self.close()

    async def _alone(self) -> AsyncGenerator[Piece, None]:
        async for output in self._streams[0]:
            yield 0, output

    async def _merge(self) -> AsyncGenerator[Piece, None]:
        """One place for the next piece: until it is taken, news gather in the streams."""
        place: asyncio.Queue[Piece | Exception] = asyncio.Queue(maxsize=1)

        async def pump(index: int, stream: AsyncIterator[StepOutput]) -> None:
            try:
                async for output in stream:
                    await place.put((index, output))
            except Exception as error:
                await place.put(error)

        pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(self._streams)]
        try:
            left = len(pumps)
            while left:
                piece = await place.get()
                if isinstance(piece, Exception):
                    raise piece
                left -= piece[1].finish_reason is not None
                yield piece
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
