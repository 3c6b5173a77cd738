"""LayerPath: one layer over all samples, input by input, while its matrices are being changed.

    hidden ─▶ input of qkv ─[qkv]─▶ input of output ─[output]─▶ input of the MLP ─[gate_up]─▶ input of down ─▶ hidden

Two of them run side by side while a layer is rounded: the exact one tells what each matrix was made for, the drifted
one, rounded so far, what it will really get. Of the inputs only sums are kept, and what attention gave.

Lesson: 4 (what is lost)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lmcourse.kernels import RaggedBatch, Stream, sum_stream
from lmcourse.layers import MLP, PlainMLP
from lmcourse.lite.layer_inputs import LayerRunner, products
from lmcourse.models import DecoderLayer
from lmcourse.quant import InputMoments

__all__ = ["LayerPath", "side_by_side"]


class LayerPath:
    """Inputs are asked for in their order; `finish` writes the layer's output into hidden."""

    def __init__(self, layer: DecoderLayer, hidden: Tensor, runner: LayerRunner) -> None:
        """hidden [tokens, features], what the layer gets."""
        self.layer, self._hidden, self._runner = layer, hidden, runner
        width = layer.attention.output.in_features
        self._mixed = hidden.new_empty((len(hidden), width))

    @torch.inference_mode()
    def inputs(self, matrix: str) -> Iterator[Tensor]:
        """Of a matrix by its canonical name in the layer, some samples at a time: [tokens, columns]."""
        attention, norm = self.layer.attention, self.layer.attention_norm
        for first, kv, batch in self._runner.batches(self._hidden):
            stream = self._stream(first, batch)
            if matrix == "attention.qkv":
                yield norm(stream)[0]
                continue
            at = slice(first, first + len(batch.positions))
            if matrix == "attention.output":
                q, _ = attention.turned_queries(stream, norm.norm, self._runner.rotation(batch), batch, kv)
                self._mixed[at] = attention.mix(q, batch, kv)
                yield self._mixed[at]
                continue
            middle = self.layer.between(Stream(stream.residual, attention.output(self._mixed[at])))
            if matrix != "mlp.down":
                yield self.layer.mlp_norm(middle)[0]
                continue
            mlp = self.layer.mlp
            assert isinstance(mlp, MLP | PlainMLP), "experts have inputs of their own"
            yield mlp.activated(middle, self.layer.mlp_norm.norm)[0]

    @torch.inference_mode()
    def finish(self) -> None:
        """What attention gave must be there: inputs("attention.output") has been asked for since qkv changed."""
        for first, _, batch in self._runner.batches(self._hidden):
            at = slice(first, first + len(batch.positions))
            attended = Stream(self._hidden[at], self.layer.attention.output(self._mixed[at]))
            fed = self.layer.mlp(self.layer.between(attended), self.layer.mlp_norm.norm)
            self._hidden[at] = sum_stream(self.layer.joined(attended, fed))

    def _stream(self, first: int, batch: RaggedBatch) -> Stream:
        rows = self._hidden[first : first + len(batch.positions)]
        return Stream(rows, rows.new_empty((0, *rows.shape)))


@torch.inference_mode()
def side_by_side(exact: LayerPath, drifted: LayerPath, matrix: str) -> InputMoments:
    """How the inputs of a matrix vary on both paths, and together."""
    count, second, cross = 0, torch.zeros(()), torch.zeros(())
    for x, seen in zip(exact.inputs(matrix), drifted.inputs(matrix), strict=True):
        count += len(x)
        second, cross = second.to(x.device) + products(seen, seen), cross.to(x.device) + products(x, seen)
    return InputMoments(second / count, cross / count, count)
