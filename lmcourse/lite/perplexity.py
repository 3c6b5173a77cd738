"""Perplexity: how surprised a model is by text, exp of the mean negative log-probability of each next token.

One number for what quantisation costs: the same text through the same engine, and only the weights differ.

Lesson: 4 (what is lost)
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding

from lmcourse.engine.settings import choose_device
from lmcourse.kernels import Stream
from lmcourse.lite.layer_inputs import LayerRunner
from lmcourse.models import DecoderLayer, load_decoder

__all__ = ["perplexity"]

_ROWS_AT_ONCE = 512


@torch.inference_mode()
def perplexity(folder: Path, tokens: Tensor, judged: Tensor | None = None, *, device: str | None = None) -> float:
    """Of a model folder on int64 tokens [samples, seqlen]; judged, bool and as large, says which count (None: all).

    The first token of a sample never counts: nothing comes before it.
    """
    place = choose_device(device)
    dtype = torch.float16 if place.type == "cuda" else torch.float32
    decoder = load_decoder(folder, dtype=dtype, device=place)
    samples, seqlen = tokens.shape
    runner = LayerRunner(decoder.spec, num_samples=samples, seqlen=seqlen, batch_size=8)
    hidden = embedding(tokens.flatten().to(place), decoder.embedding.weight)
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        runner.run(layer, hidden, inputs=None)
    counts = torch.ones_like(tokens, dtype=torch.bool) if judged is None else judged
    chosen = counts[:, 1:].flatten().to(place)
    states = hidden.view(samples, seqlen, -1)[:, :-1].flatten(0, 1)[chosen]
    targets = tokens[:, 1:].flatten().to(place)[chosen]
    total, pieces = 0.0, -(-len(targets) // _ROWS_AT_ONCE)
    for rows, wanted in zip(states.chunk(pieces), targets.chunk(pieces), strict=True):
        normed = decoder.norm(Stream(rows, rows.new_empty((0, *rows.shape))))[0]
        total += float(cross_entropy(decoder.logits(normed), wanted, reduction="sum"))
    return math.exp(total / len(targets))
