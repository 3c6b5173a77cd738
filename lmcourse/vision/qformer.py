"""Q-Former: a few learned queries that look at a picture's many features and take its place (arXiv 2301.12597 §3.1).

    queries [n, hidden] ─ norm ─▶ layers: among themselves │ at the picture (every other layer) │ MLP ─▶ [n, hidden]
                                                                     ▲
    a tower's features [patches + 1, seen] ──────────────────────────┘

The idea: however large the picture, it costs n tokens. The layers are BERT's: each sum is normed after it is taken. Of
what BLIP-2 trained, the half for texts is neither published with the models here nor wanted.

Lesson: 6 (from features to tokens)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as fn

from lmcourse.models import TensorSource
from lmcourse.vision.weights import count_layers, stored_shape

__all__ = ["QFormer", "QFormerSpec", "qformer_names", "qformer_sizes"]

_HEAD_DIM = 64  # of BERT's
_EPS = 1e-12
Names = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class QFormerSpec:
    """The shape; the defaults are BERT-base's over EVA-CLIP-g's features."""

    hidden: int = 768
    intermediate: int = 3072
    num_layers: int = 12
    num_queries: int = 64
    seen: int = 1408  # features of what is looked at
    every: int = 2  # layers 0, every, 2 · every … look at the picture

    @property
    def num_heads(self) -> int:
        """Of every attention."""
        return max(1, self.hidden // _HEAD_DIM)


class QFormer(nn.Module):
    """Features of pictures in, as many tokens as there are queries out."""

    def __init__(self, spec: QFormerSpec) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(spec.num_queries, spec.hidden))
        self.norm = nn.LayerNorm(spec.hidden, _EPS)
        self.layers = nn.ModuleList(_Layer(spec, looks=n % spec.every == 0) for n in range(spec.num_layers))

    def forward(self, seen: Tensor) -> Tensor:
        """seen: [pictures, features of a picture, seen] → [pictures, num_queries, hidden]."""
        x: Tensor = self.norm(self.queries).expand(len(seen), -1, -1)
        for layer in self.layers:
            x = layer(x, seen)
        return x


class _Layer(nn.Module):
    def __init__(self, spec: QFormerSpec, *, looks: bool) -> None:
        super().__init__()
        self.attention = _Attention(spec, spec.hidden)
        self.looking = _Attention(spec, spec.seen) if looks else None
        self.up = nn.Linear(spec.hidden, spec.intermediate)
        self.down = nn.Linear(spec.intermediate, spec.hidden)
        self.mlp_norm = nn.LayerNorm(spec.hidden, _EPS)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = self.attention(x, x)
        if self.looking is not None:
            x = self.looking(x, seen)
        mapped: Tensor = self.mlp_norm(x + self.down(fn.gelu(self.up(x))))
        return mapped


class _Attention(nn.Module):
    def __init__(self, spec: QFormerSpec, seen: int) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.query = nn.Linear(spec.hidden, spec.hidden)
        self.key_value = nn.Linear(seen, 2 * spec.hidden)
        self.output = nn.Linear(spec.hidden, spec.hidden)
        self.norm = nn.LayerNorm(spec.hidden, _EPS)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """x looks at seen."""
        q = rearrange(self.query(x), "n t (h d) -> n h t d", h=self.num_heads)
        k, v = rearrange(self.key_value(seen), "n t (part h d) -> part n h t d", part=2, h=self.num_heads)
        taken = rearrange(fn.scaled_dot_product_attention(q, k, v), "n h t d -> n t (h d)")
        summed: Tensor = self.norm(x + self.output(taken))
        return summed


def qformer_names(spec: QFormerSpec, prefix: str, queries: str) -> Names:
    """Parameter of a QFormer → the stored tensors whose rows it is made of; queries is the tensor that holds those."""
    names: Names = {"queries": (queries,)}
    names |= _leaves("norm", f"{prefix}embeddings.LayerNorm")
    for n in range(spec.num_layers):
        stored, ours = f"{prefix}encoder.layer.{n}", f"layers.{n}"
        for part, block in _attentions(n, spec):
            names |= _leaves(f"{ours}.{part}.query", f"{stored}.{block}.self.query")
            names |= _leaves(f"{ours}.{part}.key_value", f"{stored}.{block}.self.key", f"{stored}.{block}.self.value")
            names |= _leaves(f"{ours}.{part}.output", f"{stored}.{block}.output.dense")
            names |= _leaves(f"{ours}.{part}.norm", f"{stored}.{block}.output.LayerNorm")
        names |= _leaves(f"{ours}.up", f"{stored}.intermediate_query.dense")
        names |= _leaves(f"{ours}.down", f"{stored}.output_query.dense")
        names |= _leaves(f"{ours}.mlp_norm", f"{stored}.output_query.LayerNorm")
    return names


def _attentions(number: int, spec: QFormerSpec) -> Iterator[tuple[str, str]]:
    """(ours, stored) of a layer's attentions."""
    yield "attention", "attention"
    if number % spec.every == 0:
        yield "looking", "crossattention"


def _leaves(ours: str, *stored: str) -> Names:
    return {f"{ours}.{leaf}": tuple(f"{part}.{leaf}" for part in stored) for leaf in ("weight", "bias")}


def qformer_sizes(source: TensorSource, prefix: str, queries: str) -> QFormerSpec:
    """The shape, read off the tensors, since no config has it."""
    layers = prefix + "encoder.layer."
    num_layers, (_, num_queries, hidden) = count_layers(source, layers), stored_shape(source, queries, 3)
    keys = "crossattention.self.key.weight"
    looking = [n for n in range(1, num_layers) if f"{layers}{n}.{keys}" in source.tensors]
    return QFormerSpec(
        hidden=hidden,
        intermediate=stored_shape(source, f"{layers}0.intermediate_query.dense.weight", 2)[0],
        num_layers=num_layers,
        num_queries=num_queries,
        seen=stored_shape(source, f"{layers}0.{keys}", 2)[1],
        every=looking[0] if looking else num_layers,
    )
