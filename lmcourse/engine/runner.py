"""ModelRunner: the model, its KV cache and the device; a Plan in, sampled tokens on their way out.

The idea: this is the one place where a step touches the device, and nothing here waits for it. The sampled tokens stay
on the device, where the next step is fed from them, and a copy starts for the host to pick up when it wants to.

    sampled (device)   [ 17 │ 4 │ 99 │ … ]   row of each request that sampled: `Launch.rows`
                          └───── feeds the next step; copied into pinned memory, an event says when

Contract: steps run in the order of their launch. Between steps the runner keeps the KV cache and the last samples; a
step that was interrupted can be launched again.

Lesson: 2 (one step of the engine), 3 (the host never stalls the device)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmcourse.engine.batch import Batch, make_batch
from lmcourse.engine.intake import Entry
from lmcourse.engine.kv_cache import KVCache
from lmcourse.engine.request import Request
from lmcourse.engine.sampler import Choice, Sampled, choose
from lmcourse.engine.scheduler import Plan

if TYPE_CHECKING:
    from lmcourse.models import Decoder

__all__ = ["Fetch", "Launch", "ModelRunner", "count_weight_bytes"]


class Fetch:
    """Copies of tensors on their way to the host."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Starts the copies: into pinned memory behind what the device has to do, at once on a CPU."""
        self._arrived: torch.cuda.Event | None = None
        if not tensors[0].is_cuda:
            self._copies = [tensor.clone() for tensor in tensors]
            return
        self._copies = [
            torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
            for tensor in tensors
        ]
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record()

    def wait(self) -> list[Tensor]:
        """The copies, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copies


@dataclass(frozen=True)
class Launch:
    """A step that the device was given."""

    sampling: tuple[Request, ...]  # who samples
    rows: dict[int, int]  # by request id: the row of `sampled` with its token
    choice: Choice
    fetch: Fetch

    def wait(self) -> list[Sampled | None]:
        """One entry per request of `sampling`, once the device has got so far."""
        return self.choice.read(self.fetch.wait())


class ModelRunner:
    """Owner of the decoder, the KV cache and the last samples."""

    def __init__(self, decoder: Decoder, kv: KVCache, *, tokens_per_block: int, most_rows: int) -> None:
        """most_rows: requests that one step may sample for."""
        self.decoder, self.kv = decoder, kv
        self._tokens_per_block = tokens_per_block
        self._sampled = torch.zeros(most_rows, dtype=torch.int64, device=decoder.device)

    @torch.inference_mode()
    def launch(
        self, plan: Plan, entries: Mapping[int, Entry], pending: Mapping[int, int], *, mark: Callable[[], None]
    ) -> Launch:
        """Start a step; pending: the rows of the step before. `mark` is called when its model part is under way."""
        batch = make_batch(
            plan, tokens_per_block=self._tokens_per_block, device=self.decoder.device, sampled_rows=pending
        )
        mark()
        logits = self.run(batch)
        mark()
        requests = tuple(chunk.request for chunk in batch.sampling)
        choice = choose(logits, requests, [entries[request.request_id].sampling for request in requests])
        self._sampled[: len(requests)] = choice.token_ids
        rows = {request.request_id: row for row, request in enumerate(requests)}
        return Launch(requests, rows, choice, Fetch(choice.tensors))

    def run(self, batch: Batch) -> Tensor:
        """Compute the batch, write its keys and values; float32 logits [len(batch.sampling), vocab]."""
        token_ids, (at, rows) = batch.token_ids, batch.feed
        if at.shape[0]:
            token_ids[at] = self._sampled[rows].clamp(min=0)  # negative: was not finite, and will be dropped
        hidden = self.decoder(token_ids, batch.layout, self.kv.layers)
        return self.decoder.logits(hidden[batch.rows])


def count_weight_bytes(decoder: Decoder) -> int:
    """Memory of the decoder's parameters and buffers."""
    return sum(tensor.nbytes for tensor in chain(decoder.parameters(), decoder.buffers()))
