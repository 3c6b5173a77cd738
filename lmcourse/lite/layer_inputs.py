"""What flows into the matrices of a layer while calibration text runs through it.

    hidden states of all samples ──layer──▶ hidden states for the next layer
                                     │
                                     ├─ input of qkv       (behind the attention norm)
                                     ├─ input of output    (what attention gives)
                                     ├─ input of gate_up   (behind the MLP norm)
                                     └─ input of down      (behind SwiGLU)

The layer is the engine's own, run through the engine's own operations with a small KV cache of its own, a few samples
at a time. Of each input only its statistics are kept (quant/awq.py), so memory stays near one layer.

Lesson: 4 (why activations tell which channels matter)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmcourse.errors import CalibrationError
from lmcourse.kernels import LayerKV, RaggedBatch, Rotation, Stream, sum_stream
from lmcourse.layers import MLP, PlainMLP
from lmcourse.models import DecoderLayer, make_rotary
from lmcourse.quant import ChannelStats
from lmcourse.spec import ModelSpec

__all__ = ["LayerInputs", "LayerRunner", "has_experts", "matrix_names", "products"]

_TOKENS_PER_BLOCK = 64


def has_experts(spec: ModelSpec, number: int) -> bool:
    """Whether a layer is a mixture of experts."""
    return spec.experts is not None and number not in spec.experts.dense_layers


def matrix_names(spec: ModelSpec, number: int) -> tuple[str, ...]:
    """A layer's matrices in the order of their inputs, by canonical name; experts' second ones have many inputs."""
    attention = "attention.qkv", "attention.output"
    if has_experts(spec, number):
        return *attention, "mlp.experts_gate_up"
    return *attention, "mlp.gate_up" if spec.mlp == "gated" else "mlp.up", "mlp.down"


def products(x: Tensor, y: Tensor) -> Tensor:
    """xᵀ · y, float32 [columns of x, columns of y]; halves are multiplied as halves on a GPU, which is exact."""
    if x.is_cuda and x.dtype == y.dtype == torch.float16:
        return torch.mm(x.t(), y, out_dtype=torch.float32)
    return x.float().t() @ y.float()


@dataclass
class _Sums:
    """Of one input, over the tokens seen so far."""

    count: int = 0
    sums: ChannelStats | None = None  # not yet divided by count

    def add(self, x: Tensor) -> None:
        size = x.float().abs()
        new, old = ChannelStats(size.sum(0), size.amax(0), products(x, x)), self.sums
        self.count += len(x)
        self.sums = (
            new
            if old is None
            else ChannelStats(
                old.mean_abs.add_(new.mean_abs),
                torch.maximum(old.largest_abs, new.largest_abs),
                old.second_moment.add_(new.second_moment),
            )
        )

    def stats(self) -> ChannelStats:
        assert self.sums is not None, "no text has run through"
        return ChannelStats(
            self.sums.mean_abs / self.count, self.sums.largest_abs, self.sums.second_moment / self.count
        )


@dataclass
class LayerInputs:
    """Statistics of one layer: inputs by matrix, and the range of its keys and values."""

    sums: dict[str, _Sums] = field(default_factory=lambda: defaultdict(_Sums))
    kv_ranges: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # per kv head and feature: min, max

    def stats(self, matrix: str) -> ChannelStats:
        """By the matrix's canonical name in its layer."""
        return self.sums[matrix].stats()

    def see_kv(self, name: str, values: Tensor) -> None:
        """values [num_tokens, num_kv_heads, head_dim]."""
        low, high = values.float().amin(0), values.float().amax(0)
        if name in self.kv_ranges:
            low, high = torch.minimum(low, self.kv_ranges[name][0]), torch.maximum(high, self.kv_ranges[name][1])
        self.kv_ranges[name] = (low, high)


class LayerRunner:
    """Runs one layer after another over the same samples."""

    def __init__(self, spec: ModelSpec, *, num_samples: int, seqlen: int, batch_size: int) -> None:
        self._spec, self._seqlen = spec, seqlen
        self._num_samples, self._batch_size = num_samples, min(batch_size, num_samples)
        self._rotary = make_rotary(spec)

    def run(self, layer: DecoderLayer, hidden: Tensor, *, inputs: LayerInputs | None) -> None:
        """hidden [num_samples · seqlen, features] becomes the layer's output, in place; inputs takes notes, if given.

        CalibrationError if the layer gives anything that is not finite.
        """
        for first, kv, batch in self.batches(hidden):
            rows = hidden[first : first + len(batch.positions)]
            rotation = self.rotation(batch)
            out, seen = _run_layer(layer, rows, (batch, kv, rotation))
            if inputs is not None:
                _note(inputs, seen, kv, batch)
            if not bool(torch.isfinite(out).all()):
                raise CalibrationError(
                    "a layer's output is not finite",
                    expected="finite activations",
                    got="NaN or infinity",
                    where=f"samples {first // self._seqlen} to {first // self._seqlen + self._batch_size - 1}",
                    next_step="check that the model itself answers sensibly (lmcourse chat); weights that overflow "
                    "float16 cannot be quantised on a GPU",
                )
            hidden[first : first + len(rows)] = out

    def rotation(self, batch: RaggedBatch) -> Rotation:
        """How far a batch's positions are turned."""
        rotation: Rotation = self._rotary(batch.positions, batch.rotary_lens)
        return rotation

    def batches(self, hidden: Tensor) -> Iterator[tuple[int, LayerKV, RaggedBatch]]:
        """(first row, cache, batch) of a few samples at a time; all take turns in the same cache."""
        spec, blocks = self._spec, -(-self._seqlen // _TOKENS_PER_BLOCK)
        shape = (self._batch_size * blocks, spec.num_kv_heads, _TOKENS_PER_BLOCK, spec.head_dim)
        kv = LayerKV(torch.empty(shape, dtype=hidden.dtype, device=hidden.device), hidden.new_empty(shape))
        for sample in range(0, self._num_samples, self._batch_size):
            count = min(self._batch_size, self._num_samples - sample)
            yield sample * self._seqlen, kv, self._batch(count, blocks, hidden.device)

    def _batch(self, count: int, blocks: int, device: torch.device) -> RaggedBatch:
        positions = torch.arange(self._seqlen, device=device).repeat(count)
        request = torch.arange(count, device=device).repeat_interleave(self._seqlen)
        return RaggedBatch(
            positions=positions,
            slots=request * blocks * _TOKENS_PER_BLOCK + positions,
            block_tables=torch.arange(count * blocks, dtype=torch.int32, device=device).view(count, blocks),
            query_starts=tuple(range(0, count * self._seqlen + 1, self._seqlen)),
            context_lens=(self._seqlen,) * count,
            rotary_lens=torch.full_like(positions, self._seqlen),
            num_decodes=count if self._seqlen == 1 else 0,
        )


@torch.inference_mode()
def _run_layer(
    layer: DecoderLayer, rows: Tensor, place: tuple[RaggedBatch, LayerKV, Rotation]
) -> tuple[Tensor, dict[str, Tensor]]:
    """DecoderLayer.forward, and what every matrix was given (of experts' matrices, the first ones)."""
    batch, kv, rotation = place
    attention, mlp = layer.attention, layer.mlp
    stream = Stream(rows, rows.new_empty((0, *rows.shape)))
    q, residual = attention.turned_queries(stream, layer.attention_norm.norm, rotation, batch, kv)
    mixed = attention.mix(q, batch, kv)
    attended = Stream(residual, attention.output(mixed))
    middle = layer.between(attended)
    seen = {"attention.qkv": layer.attention_norm(stream)[0], "attention.output": mixed}
    normed = layer.mlp_norm(middle)[0]
    if not isinstance(mlp, MLP | PlainMLP):
        fed = mlp(middle, layer.mlp_norm.norm)
        return sum_stream(layer.joined(attended, fed)), seen | {"mlp.experts_gate_up": normed}
    activated, residual = mlp.activated(middle, layer.mlp_norm.norm)
    seen |= {"mlp.gate_up" if isinstance(mlp, MLP) else "mlp.up": normed, "mlp.down": activated}
    return sum_stream(layer.joined(attended, Stream(residual, mlp.down(activated)))), seen


@torch.inference_mode()
def _note(inputs: LayerInputs, seen: dict[str, Tensor], kv: LayerKV, batch: RaggedBatch) -> None:
    for name, x in seen.items():
        inputs.sums[name].add(x)
    for name, pool in zip(("keys", "values"), kv, strict=True):
        inputs.see_kv(name, pool.transpose(1, 2).flatten(0, 1)[batch.slots])
