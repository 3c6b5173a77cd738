"""Forward and backward of a training batch as one CUDA graph per row length: a small model is otherwise launch-bound.

Each row length has its own input buffers; all graphs share one memory pool; gradients live outside the pool and
accumulate in place. The first replay of each graph is compared with a plain run before it is trusted; from the first
capture that fails on, batches run plainly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["CapturedBackward", "TensorBatch"]

_TRUSTED_DIFFERENCE = 0.05  # bf16 sums in another order differ by less


class TensorBatch(Protocol):
    """A batch whose row length decides the shapes of its tensors."""

    @property
    def row_length(self) -> int: ...

    def parts(self) -> list[Tensor]: ...

    def of(self, parts: list[Tensor]) -> Self: ...


_Batch = TypeVar("_Batch", bound=TensorBatch)


class CapturedBackward(Generic[_Batch]):
    """Replaces `backward(batch) -> loss`, which adds to the parameters' gradients."""

    def __init__(self, backward: Callable[[_Batch], Tensor], model: nn.Module, log: Callable[[str], None]) -> None:
        self.backward, self.parameters, self.log = backward, list(model.parameters()), log
        self.works = True
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.held: dict[int, _Batch] = {}
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.pool: Any = None

    def __call__(self, batch: _Batch) -> Tensor:
        """Loss of the batch; valid until the next call."""
        if self.works:
            try:
                return self._replay(batch)
            except RuntimeError as error:
                self.log(f"no CUDA graphs from here on: {error}")
                self.works = False
        return self.backward(batch)

    def _replay(self, batch: _Batch) -> Tensor:
        if batch.row_length not in self.held:
            self.held[batch.row_length] = batch.of([part.clone() for part in batch.parts()])
        for kept, new in zip(self.held[batch.row_length].parts(), batch.parts(), strict=True):
            kept.copy_(new, non_blocking=True)
        if batch.row_length not in self.graphs:
            self._capture(batch.row_length)
        graph, loss = self.graphs[batch.row_length]
        graph.replay()
        return loss

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    def _capture(self, row_length: int) -> None:
        """Records the graph; RuntimeError if its gradients are not those of a plain run."""
        held = self.held[row_length]
        before = [gradient.clone() for gradient in self._gradients()]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.backward(held)
            torch._foreach_zero_(self._gradients())
            self.backward(held)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        expected = [gradient.clone() for gradient in self._gradients()]
        graph = torch.cuda.CUDAGraph()
        # The loader's pinning thread allocates meanwhile: only this thread's calls may disturb the capture.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            loss = self.backward(held)
        self.pool = graph.pool()
        torch._foreach_zero_(self._gradients())
        graph.replay()
        wrong = sum(float((got - want).square().sum()) for got, want in zip(self._gradients(), expected, strict=True))
        size = sum(float(want.square().sum()) for want in expected)
        if not wrong <= _TRUSTED_DIFFERENCE**2 * size:
            raise RuntimeError(f"graph of row length {row_length} disagrees: {wrong} of {size}")
        torch._foreach_copy_(self._gradients(), before)
        self.graphs[row_length] = (graph, loss)
