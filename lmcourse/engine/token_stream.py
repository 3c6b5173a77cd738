"""TokenStream: one answer on its way from the stepping thread to the asyncio task that reads it. No torch.

The idea: what has come and was not fetched yet lies in one place, and a fetch takes all of it. So a slow reader gets
larger pieces, and nobody ever waits for it.

Contract: `receive` is called in the stream's own loop; one task reads. Reading ends with the output that has a
finish_reason, or by raising what went wrong. `close` ends the request, whoever calls it and however often.

Lesson: 5 (streaming from the server)
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from lmcourse.config import GenerationConfig
from lmcourse.engine.answer import StepOutput
from lmcourse.engine.sampling import TokenMask

__all__ = ["Order", "TokenStream"]


@dataclass(frozen=True)
class Order:
    """What one request asks for."""

    prompt_ids: Sequence[int]
    gen: GenerationConfig
    stop_ids: frozenset[int] = frozenset()
    mask: TokenMask | None = None
    account: str | None = None  # whose request it is; None: nobody's in particular


class TokenStream:
    """An asynchronous iterator of StepOutput, and a context manager that ends the request when it is left."""

    def __init__(self, order: Order, on_end: Callable[[TokenStream], None]) -> None:
        """Belongs to the running loop; on_end is told once, when nothing more will be read."""
        self.order, self.loop = order, asyncio.get_running_loop()
        self.request_id: int | None = None  # set by the stepping thread when the engine has taken the request
        self.finished = False  # the engine is done with it
        self.ended = False  # nothing more will be read
        self._on_end = on_end
        self._accepted = False
        self._unread: list[StepOutput] = []
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    def receive(self, outputs: Sequence[StepOutput], error: BaseException | None = None) -> None:
        """News from the stepping thread; the first says that the engine has taken the request, or why it has not."""
        self._accepted = True
        for output in outputs:
            self.finished = self.finished or output.finish_reason is not None
            if output.error is None:
                self._unread.append(output)
            else:
                error = output.error
        if error is not None and self._error is None:
            self._error, self.finished = error, True
        self._changed.set()

    def cut(self) -> None:
        """Let the reader have what has come, and no more (reason 'abort')."""
        if not self.finished:
            self.receive([StepOutput(self.request_id or 0, [], "", "abort")])

    async def accepted(self) -> None:
        """Return when the engine has taken the request; raise what is wrong with it."""
        while not self._accepted:
            await self._wait()
        if self._error is not None and not self._unread:
            self.close()
            raise self._error

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> StepOutput:
        while not self._unread:
            if self._error is not None and not self.ended:
                self.close()
                raise self._error
            if self.ended:
                raise StopAsyncIteration
            await self._wait()
        outputs, self._unread = self._unread, []
        if outputs[-1].finish_reason is not None:
            self.close()
        return outputs[0] if len(outputs) == 1 else _join(outputs)

    async def _wait(self) -> None:
        self._changed.clear()
        try:
            await self._changed.wait()
        except BaseException:  # the reading task was cancelled
            self.close()
            raise

    def close(self) -> None:
        """Read no more; a request that is still running is aborted."""
        if not self.ended:
            self.ended = True
            self._on_end(self)

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _join(outputs: Sequence[StepOutput]) -> StepOutput:
    """Several pieces as one."""
    lists = [output.logprobs for output in outputs if output.logprobs is not None]
    return dataclasses.replace(
        outputs[-1],
        token_ids=[token_id for output in outputs for token_id in output.token_ids],
        text="".join(output.text for output in outputs),
        logprobs=[report for reports in lists for report in reports] if lists else None,
    )
