"""The only transformer: a stack of like layers that any supported family's weights are brought into.

What differs between families is in ModelSpec (numbers, and which kind of layer, norm, MLP) and families.py (names and
layouts of stored tensors); here is one canonical set of weights, named by the path to the module that holds each:

    embedding.weight                                 [vocab, hidden]
    layers.N.{attention_norm,mlp_norm}.{weight,bias} [hidden]
    layers.N.attention.qkv.{weight,bias}             rows [Q | K | V], (num_heads + 2 num_kv_heads) · head_dim
    layers.N.attention.output.{weight,bias}          [hidden, num_heads · head_dim]
    layers.N.mlp.gate_up.{weight,bias}               rows [gate | up], 2 · intermediate
    layers.N.mlp.up.{weight,bias}                    [intermediate, hidden]: the MLP without a gate
    layers.N.mlp.down.{weight,bias}                  [hidden, intermediate]
    layers.N.added.{qkv,output,gate_up,down}.{reduce,expand}.weight   for pictures' tokens alone (layers/low_rank.py)
    layers.N.mlp.{router,experts_gate_up,experts_down}.weight   in its place: a mixture of experts (layers/moe.py)
    norm.{weight,bias}                               [hidden]
    head.weight                                      [vocab, hidden]; absent when it is the embedding's table

A matrix of 4-bit weights has {words,groups} in the place of weight (quant/formats.py).

Lesson: 2 (one model, two formats)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lmcourse.kernels import AnyKV, Matrix, RaggedBatch, Rotation, Stream, project, sum_parts
from lmcourse.layers import ALONE, MLP, Attention, Embedding, Linear, LowRank, Ranks, Rotary, make_mlp, make_norm
from lmcourse.quant import WeightFormat
from lmcourse.spec import ModelSpec

__all__ = [
    "LAYERS",
    "Decoder",
    "DecoderLayer",
    "FeatureRows",
    "OneNormLayer",
    "ParallelLayer",
    "PicturedLayer",
    "input_widths",
    "make_layer",
    "make_rotary",
    "meta_decoder",
    "plain_shapes",
]


class FeatureRows(NamedTuple):
    """Features that stand in the place of some tokens' embeddings: those of a picture."""

    at: Tensor  # int64 [rows]: which of the step's tokens
    features: Tensor  # [rows, hidden], in the decoder's dtype


class Decoder(nn.Module):
    """Token ids in, hidden states out, keys and values into the cache on the way. Holds no state but its weights."""

    def __init__(self, spec: ModelSpec, ranks: Ranks = ALONE) -> None:
        """ranks: who shares the model; the spec is then what one of them computes (cut_spec), with the whole vocab."""
        super().__init__()
        self.spec, self.ranks = spec, ranks
        self.embedding = Embedding(spec.vocab, spec.hidden, spec.embedding_scale, ranks)
        self.rotary = make_rotary(spec)
        self.layers = nn.ModuleList(make_layer(spec, number, ranks) for number in range(spec.num_layers))
        self.norm = make_norm(spec)
        self.head = None if spec.tie_embeddings else Linear(spec.hidden, -(-spec.vocab // ranks.size))

    def forward(
        self,
        token_ids: Tensor,
        batch: RaggedBatch,
        kv: Sequence[AnyKV],
        pictured: FeatureRows | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """token_ids: int64 [num_tokens], kv: one entry per layer → normed hidden states [num_tokens, hidden].

        rows: int64, the tokens whose states are wanted, one at least: [len(rows), hidden]. Behind the keys and values
        of the last layer no token needs another, so it computes these alone. None: all.
        """
        rotation = self.rotary(batch.positions, batch.rotary_lens)
        features = self.embedding(token_ids)
        if pictured is not None:
            features = features.index_copy(0, *pictured)
            batch = dataclasses.replace(batch, pictured=pictured.at)
        stream = Stream(features, features.new_empty((0, *features.shape)))
        last = len(self.layers) - 1
        for number, (layer, layer_kv) in enumerate(zip(self.layers, kv, strict=True)):
            stream = layer(stream, rotation, batch, layer_kv, rows if number == last else None)
        normed: Tensor = self.norm(stream)[0]
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [rows, hidden] → float32 [rows, vocab]; pass only the rows whose next token is wanted."""
        table = Matrix(self.embedding.weight) if self.head is None else self.head.matrix
        own = sum_parts(project(hidden, table, torch.float32), torch.float32)
        whole = self.ranks.concatenate(own)
        return whole if whole.shape[1] == self.spec.vocab else whole[:, : self.spec.vocab].contiguous()

    def respecify(self, spec: ModelSpec) -> None:
        """Take another spec, which differs in how positions act."""
        self.spec, self.rotary = spec, make_rotary(spec)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return self.embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device


class DecoderLayer(nn.Module):
    """norm → attention → + → norm → MLP → +, in five operations; each sum is taken by the norm that follows it."""

    def __init__(self, spec: ModelSpec, number: int, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.attention_norm = make_norm(spec)
        self.attention = Attention(spec, ranks)
        self.mlp_norm = make_norm(spec)
        self.mlp = make_mlp(spec, number, ranks)

    def forward(
        self, stream: Stream, rotation: Rotation, batch: RaggedBatch, kv: AnyKV, rows: Tensor | None = None
    ) -> Stream:
        """The stream, and in it what the layer before added, one layer on; of these tokens only, if rows names some."""
        attended = self.attention(stream, self.attention_norm.norm, rotation, batch, kv, rows)
        return self.joined(attended, self.mlp(self.between(attended), self.mlp_norm.norm))

    def between(self, attended: Stream) -> Stream:
        """What the MLP starts from: the stream, and in it what attention has added."""
        return attended

    def joined(self, attended: Stream, fed: Stream) -> Stream:
        """The stream behind the layer, from those behind attention and behind the MLP."""
        return fed


class ParallelLayer(DecoderLayer):
    """Attention and MLP both start from the same stream, and both add to it (arXiv 2204.02311 §2)."""

    def between(self, attended: Stream) -> Stream:
        """The stream as attention found it."""
        return Stream(attended.residual, attended.parts[:0])

    def joined(self, attended: Stream, fed: Stream) -> Stream:
        """What both have added, as parts of one sum."""
        return Stream(attended.residual, torch.cat((attended.parts, fed.parts)))


class OneNormLayer(ParallelLayer):
    """A ParallelLayer whose attention and MLP share a norm."""

    def __init__(self, spec: ModelSpec, number: int, ranks: Ranks = ALONE) -> None:
        super().__init__(spec, number, ranks)
        self.mlp_norm = self.attention_norm


class PicturedLayer(DecoderLayer):
    """A DecoderLayer whose matrices do something more for the tokens of pictures (partial LoRA, arXiv 2401.16420 §3.2).

    A step without such tokens, which every decode is, runs as in any DecoderLayer.
    """

    def __init__(self, spec: ModelSpec, number: int, ranks: Ranks = ALONE) -> None:
        super().__init__(spec, number, ranks)
        mlp = self.mlp
        assert isinstance(mlp, MLP), "pictured layers have gated MLPs"
        linears = {"qkv": self.attention.qkv, "output": self.attention.output, "gate_up": mlp.gate_up, "down": mlp.down}
        self.added = nn.ModuleDict({
            name: LowRank(
                linear.in_features, linear.out_features, spec.picture_rank, pairs=2 if name == "gate_up" else 1
            )
            for name, linear in linears.items()
        })  # fmt: skip

    def forward(
        self, stream: Stream, rotation: Rotation, batch: RaggedBatch, kv: AnyKV, rows: Tensor | None = None
    ) -> Stream:
        """As DecoderLayer's, in as many operations as there are lines."""
        if batch.pictured is None:
            return super().forward(stream, rotation, batch, kv, rows)
        attention, mlp, at = self.attention, self.mlp, batch.pictured
        assert isinstance(mlp, MLP)
        normed, residual = self.attention_norm(stream)
        q = attention.turn(self._product("qkv", attention.qkv, normed, at), rotation, batch, kv)
        mixed = self._product("output", attention.output, attention.mix(q, batch, kv), at)
        normed, residual = self.mlp_norm(Stream(residual, mixed[None]))
        activated = mlp.activate(self._product("gate_up", mlp.gate_up, normed, at))
        fed = Stream(residual, self._product("down", mlp.down, activated, at)[None])
        return fed if rows is None else fed.take(rows)

    def _product(self, name: str, linear: Linear, x: Tensor, at: Tensor) -> Tensor:
        """What a matrix gives, with what is added to it at some tokens: [num_tokens, out_features]."""
        return sum_parts(linear(x), x.dtype).index_add_(0, at, self.added[name](x[at]))


LAYERS: Mapping[str, Callable[[ModelSpec, int, Ranks], DecoderLayer]] = {
    "sequential": DecoderLayer,
    "parallel": ParallelLayer,
    "parallel_one_norm": OneNormLayer,
    "pictured": PicturedLayer,
}


def make_layer(spec: ModelSpec, number: int, ranks: Ranks = ALONE) -> DecoderLayer:
    """Layer `number`, of the spec's kind."""
    return LAYERS[spec.layer](spec, number, ranks)


def make_rotary(spec: ModelSpec) -> Rotary:
    """What turns positions into angles; again, if a spec's rotary rule is changed."""
    return Rotary(spec.rotary, spec.head_dim, spec.logn_context)


def meta_decoder(spec: ModelSpec, formats: Mapping[str, WeightFormat] | None = None, ranks: Ranks = ALONE) -> Decoder:
    """A decoder with shapes and no memory: every weight on the meta device. formats: by module, else PLAIN."""
    with torch.device("meta"):
        decoder = Decoder(spec, ranks)
        for name, weight_format in (formats or {}).items():
            linear = decoder.get_submodule(name)
            assert isinstance(linear, Linear), f"{name} holds no matrix"
            linear.use_format(weight_format)
    return decoder


@functools.lru_cache(maxsize=4)
def plain_shapes(spec: ModelSpec) -> Mapping[str, tuple[int, ...]]:
    """Of all weights of a decoder that stores none of them packed, in its order."""
    return {name: tuple(weight.shape) for name, weight in meta_decoder(spec).named_parameters()}


@functools.lru_cache(maxsize=4)
def input_widths(spec: ModelSpec) -> Mapping[str, int]:
    """Input features of all matrices, by module."""
    modules = meta_decoder(spec).named_modules()
    return {name: module.in_features for name, module in modules if isinstance(module, Linear)}
