"""DecodeSteps: steps of one token for each request, on rows that stay on the device, as one graph each.

The idea: everything that a step needs is on the device when the step before has run, so a whole step is one fixed
sequence of kernels, which graphs.py records for each batch size of the ladder:

    rows ─ advance ─→ token ids, positions, slots ─ decoder ─→ hidden ─ head, argmax ─→ sampled ─┐
      ▲                                                                                          │ feeds the next step
      └──────────────────────────────────────────────────────────────────────────────────────────┘

Attention cuts long contexts into splits, whose number is part of the recording; so is, then, how long a context may be:
up to 4, 16, 64, … blocks. And so is its end: argmax, a draw with or without filters, or nothing, where some request
wants more than a token (logprobs, bans, a penalty) and sampler.py goes on from the hidden states.

Lesson: 3 (one graph instead of 150 launches)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lmcourse.engine.decode_rows import DecodeRows
from lmcourse.engine.graphs import Recorder
from lmcourse.engine.intake import Entry
from lmcourse.engine.kv_cache import KVCache
from lmcourse.engine.sampling import SamplingRule
from lmcourse.engine.scheduler import Chunk
from lmcourse.kernels import RaggedBatch
from lmcourse.kernels.advance import Field, advance
from lmcourse.kernels.decode_attention import plan_splits
from lmcourse.kernels.draw import draw
from lmcourse.kernels.sampling import argmax
from lmcourse.models import Decoder

__all__ = ["DecodeSteps", "Ending", "choose_ending"]

_FEWEST_COLUMNS, _GROWTH = 4, 4


class Ending(NamedTuple):
    """What a recorded step does behind the last layer."""

    samples: bool
    draws: bool = False
    top_k: bool = False
    top_p: bool = False


def choose_ending(rules: Sequence[SamplingRule]) -> Ending:
    """The shortest that serves all of these."""
    if not rules or not all(rule.is_plain for rule in rules):
        return Ending(samples=False)
    drawn = [rule for rule in rules if rule.temperature > 0]
    top_k, top_p = any(rule.top_k for rule in drawn), any(rule.top_p < 1 for rule in drawn)
    return Ending(samples=True, draws=bool(drawn), top_k=top_k, top_p=top_p)


@dataclass(frozen=True)
class DecodeSteps:
    """How the decodes of a step are run; the first rows of `sampled`, which is the runner's, are theirs."""

    decoder: Decoder
    kv: KVCache
    sampled: Tensor
    rows: DecodeRows
    recorder: Recorder
    tokens_per_block: int

    def run(
        self, chunks: Sequence[Chunk], entries: Mapping[int, Entry], pending: Mapping[int, int], ending: Ending
    ) -> Tensor:
        """Chunks of one token that sample: hidden states [chunks, hidden]; their tokens are in `sampled`, if any."""
        size = self.rows.load(chunks, entries, pending)
        columns = self._choose_columns(size, max(len(chunk.request.blocks) for chunk in chunks))
        hidden = self.recorder.run(("decodes", size, columns, ending), lambda: self._step(size, columns, ending))
        return hidden[: len(chunks)]

    def _choose_columns(self, size: int, needed: int) -> int:
        """The widest table that attention would cut like the one that is needed."""
        most = self.rows.device_rows.shape[1] - Field.TABLE
        kv_heads = self.decoder.spec.num_kv_heads
        columns = _FEWEST_COLUMNS
        while columns < needed:
            columns *= _GROWTH
        while columns < most and plan_splits(size, kv_heads, columns) == plan_splits(size, kv_heads, columns * _GROWTH):
            columns *= _GROWTH
        return min(columns, most)

    def _step(self, size: int, columns: int, ending: Ending) -> Tensor:
        """The recorded part; hidden [size, hidden]."""
        rows = self.rows.device_rows[:size]
        inputs = advance(rows, self.sampled, self.tokens_per_block)
        layout = RaggedBatch(
            inputs.positions,
            inputs.slots,
            rows[:, Field.TABLE : Field.TABLE + columns],
            query_starts=tuple(range(size + 1)),
            context_lens=(columns * self.tokens_per_block,) * size,  # at most
            rotary_lens=inputs.rotary_lens,
            num_decodes=size,
        )
        hidden: Tensor = self.decoder(inputs.token_ids, layout, self.kv.layers)
        if ending.draws:
            logits = self.decoder.logits(hidden)
            draw(logits, rows, self.sampled[:size], top_k=ending.top_k, top_p=ending.top_p)
        elif ending.samples:
            argmax(self.decoder.logits(hidden), out=self.sampled[:size])
        return hidden
