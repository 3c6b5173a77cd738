"""ModelRunner: the model, its KV cache and the device; a Plan in, sampled tokens on their way out.

The idea: this is the one place where a step touches the device, and nothing here waits for it. The sampled tokens stay
on the device, where the next step is fed from them, and a copy starts for the host to pick up when it wants to.

    any step                       make_batch → decoder → choose     as many launches as there are kernels
    decodes and short prompts      recorded_steps.py                 one graph or two, where there are graphs
    prompts with pictures          features.py, then as any step     the pictures' features, then the launches

Contract: steps run in the order of their launch. Between steps the runner keeps the KV cache and the last samples; a
step that was interrupted can be launched again.

Lesson: 2 (one step of the engine), 3 (the host never stalls the device)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from lmcourse.engine.batch import Batch, make_batch
from lmcourse.engine.features import Encoder, FeatureStore, shows_pictures
from lmcourse.engine.graphs import Recorder
from lmcourse.engine.intake import Entry
from lmcourse.engine.kv_cache import KVCache
from lmcourse.engine.launch import Fetch, Launch
from lmcourse.engine.recorded_steps import RecordedSteps
from lmcourse.engine.sampler import choose
from lmcourse.engine.scheduler import Plan
from lmcourse.layers.linear import Linear

if TYPE_CHECKING:
    from lmcourse.models import Decoder, FeatureRows

__all__ = ["ModelRunner", "StepRunner", "count_weight_bytes", "name_weight_format"]


class StepRunner(Protocol):
    """What an engine needs of a runner."""

    decoder: Decoder
    kv: KVCache
    features: FeatureStore | None

    def launch(
        self, plan: Plan, entries: Mapping[int, Entry], pending: Mapping[int, int], *, mark: Callable[[], None]
    ) -> Launch:
        """Start a step."""

    def forget(self) -> None:
        """Requests were moved without a step."""

    def close(self) -> None:
        """Nothing is launched any more."""


class ModelRunner:
    """Owner of the decoder, the KV cache and the last samples."""

    def __init__(
        self,
        decoder: Decoder,
        kv: KVCache,
        *,
        most_rows: int,
        session_len: int,
        recorder: Recorder | None,
        encoder: Encoder | None = None,
    ) -> None:
        """most_rows: requests that one step may sample for. With a recorder the cache has a block to spare."""
        self.decoder, self.kv = decoder, kv
        self.features = None if encoder is None else FeatureStore(encoder, recorder)
        self._recorded: RecordedSteps | None = None
        if recorder is not None:
            self._recorded = RecordedSteps(decoder, kv, recorder, most_rows=most_rows, session_len=session_len)
        self._sampled = (
            torch.zeros(most_rows, dtype=torch.int64, device=decoder.device)
            if self._recorded is None
            else self._recorded.sampled
        )

    @torch.inference_mode()
    def launch(
        self, plan: Plan, entries: Mapping[int, Entry], pending: Mapping[int, int], *, mark: Callable[[], None]
    ) -> Launch:
        """Start a step. pending: `Launch.rows` of the step before, if that has not landed.

        `mark` is called twice: when the input is on its way to the device, and when the model's work is.
        """
        pictured = self.features is not None and shows_pictures(plan, entries)
        if self._recorded is not None and not pictured and (parts := self._recorded.split(plan)) is not None:
            return self._recorded.launch(parts, entries, pending, mark=mark)
        self.forget()
        tokens_per_block, device = self.kv.tokens_per_block, self.decoder.device
        batch = make_batch(plan, tokens_per_block=tokens_per_block, device=device, sampled_rows=pending)
        mark()
        logits = self.run(batch, self.features.rows(batch, entries) if self.features and pictured else None)
        mark()
        requests = tuple(chunk.request for chunk in batch.sampling)
        choice = choose(logits, requests, [entries[request.request_id].sampling for request in requests])
        self._sampled[: len(requests)] = choice.token_ids
        rows = {request.request_id: row for row, request in enumerate(requests)}
        return Launch(requests, rows, choice, Fetch(choice.tensors))

    def forget(self) -> None:
        """Requests were moved without a step: rows that the device keeps of them are void."""
        if self._recorded is not None:
            self._recorded.forget()

    def close(self) -> None:
        """Memory is given back with the runner itself."""

    def run(self, batch: Batch, pictured: FeatureRows | None = None) -> Tensor:
        """Compute the batch, write its keys and values; float32 logits [len(batch.sampling), vocab]."""
        token_ids, (at, rows) = batch.token_ids, batch.feed
        if at.shape[0]:
            token_ids[at] = self._sampled[rows].clamp(min=0)  # negative: was not finite, and will be dropped
        rows = batch.rows if batch.sampling else batch.rows.new_zeros(1)  # where none is wanted, the first will do
        hidden = self.decoder(token_ids, batch.layout, self.kv.layers, pictured, rows)
        return self.decoder.logits(hidden[: len(batch.sampling)])


def count_weight_bytes(decoder: Decoder, encoder: Encoder | None = None) -> int:
    """Memory of the decoder's parameters and buffers, and of the encoder's."""
    own = sum(tensor.nbytes for tensor in chain(decoder.parameters(), decoder.buffers()))
    return own if encoder is None else own + encoder.num_bytes


def name_weight_format(decoder: Decoder) -> str:
    """How the layers' matrices are stored: `plain`, `awq`; several joined by `+`."""
    linears = [module for name, module in decoder.named_modules() if isinstance(module, Linear) and name != "head"]
    names = {type(linear.weight_format).__name__.removesuffix("Format").lower() for linear in linears}
    return "+".join(sorted(names))
