"""ModelRunner: the model, its KV cache and the device; a Batch in, logits out.

The idea: this is the one place where a step touches the device. It keeps no state from step to step except what the
KV cache holds, so a step that was interrupted can simply be run again.

Lesson: 2 (one step of the engine)
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmcourse.engine.batch import Batch
from lmcourse.engine.kv_cache import KVCache

if TYPE_CHECKING:
    from lmcourse.models import Decoder

__all__ = ["ModelRunner", "count_weight_bytes"]


class ModelRunner:
    """Owner of the decoder and the KV cache."""

    def __init__(self, decoder: Decoder, kv: KVCache) -> None:
        self.decoder, self.kv = decoder, kv

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """Compute the batch, write its keys and values; float32 logits [len(batch.sampling), vocab]."""
        hidden = self.decoder(batch.token_ids, batch.layout, self.kv.layers)
        return self.decoder.logits(hidden[batch.rows])


def count_weight_bytes(decoder: Decoder) -> int:
    """Memory of the decoder's parameters and buffers."""
    return sum(tensor.nbytes for tensor in chain(decoder.parameters(), decoder.buffers()))
