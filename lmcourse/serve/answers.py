"""The answers of a request as they come: several streams as one.

Lesson: 5 (several answers at once)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from lmcourse.config import FinishReason
from lmcourse.engine import StepOutput, TokenStream

__all__ = ["Total", "gather_answers", "read_pieces"]

Piece = tuple[int, StepOutput]  # which of the answers, and what is new in it


@dataclass
class Total:
    """One answer as far as it came."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, float]] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(self.texts)

    def append(self, output: StepOutput) -> None:
        """Take in what is new."""
        self.texts.append(output.text)
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs or ()
        self.finish_reason = output.finish_reason


async def gather_answers(streams: Sequence[TokenStream]) -> list[Total]:
    """All answers, whole."""
    totals = [Total() for _ in streams]
    async with aclosing(read_pieces(streams)) as pieces:
        async for index, output in pieces:
            totals[index].append(output)
    return totals


async def read_pieces(streams: Sequence[TokenStream]) -> AsyncGenerator[Piece, None]:
    """What is new in any of the answers, in the order in which it comes. However it ends, no request goes on."""
    try:
        if len(streams) == 1:
            async for output in streams[0]:
                yield 0, output
        else:
            async with aclosing(_merge(streams)) as pieces:
                async for piece in pieces:
                    yield piece
    finally:
        for stream in streams:
            stream.close()


async def _merge(streams: Sequence[TokenStream]) -> AsyncGenerator[Piece, None]:
    """One place for the next piece: until it is taken, news gather in the streams."""
    place: asyncio.Queue[Piece | Exception] = asyncio.Queue(maxsize=1)

    async def pump(index: int, stream: AsyncIterator[StepOutput]) -> None:
        try:
            async for output in stream:
                await place.put((index, output))
        except Exception as error:
            await place.put(error)

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        left = len(streams)
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
