"""One layer of a checkpoint, made small: scales folded into what comes before, weights rounded, packed as AWQ stores.

    what makes the input        matrices that read it       folded into
    attention_norm              qkv                         the norm's weight
    V rows of qkv               output                      those rows (only where each query head has its own V)
    mlp_norm                    gate_up                     the norm's weight
    up rows of gate_up          down                        those rows

Scales and groups lie along input features, so rows may stay in whatever order the family stores them in. What is added
to a matrix for tokens of pictures stays in 16 bits: its first factor reads the same input, its second makes such rows.

Lesson: 4 (AWQ from scratch)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.errors import CalibrationError
from lmcourse.lite.layer_inputs import LayerInputs, matrix_names
from lmcourse.lite.methods import Method
from lmcourse.models import StoredTensor, TensorRule, stored_tensors
from lmcourse.quant import ChannelStats, QuantSettings, StoredAwq, fit_grid, quantise, quantise_compensated, search_clip
from lmcourse.spec import ModelSpec

__all__ = ["LayerJob", "quantise_layer"]

_NORMS = {"attention.qkv": "attention_norm", "mlp.gate_up": "mlp_norm", "mlp.up": "mlp_norm"}
_ROWS_OF = {"attention.output": "attention.qkv", "mlp.down": "mlp.gate_up"}  # the last source: v, or up


@dataclass(frozen=True)
class LayerJob:
    """Which layer of which family, and how."""

    spec: ModelSpec
    rules: tuple[TensorRule, ...]
    number: int
    method: Method
    settings: QuantSettings

    def stored(self, module: str, leaf: str) -> StoredTensor:
        """The stored tensors of a module of this layer."""
        return stored_tensors(self.rules, f"layers.{self.number}.{module}.{leaf}")


def quantise_layer(job: LayerJob, tensors: Mapping[str, Tensor], inputs: LayerInputs) -> dict[str, Tensor]:
    """tensors: the layer's stored tensors by name, on the device that computes → its AWQ tensors on the CPU.

    float32 arithmetic; CalibrationError if a scaled weight leaves float16's range.
    """
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    matrices = matrix_names(job.spec)
    stats = {module: inputs.stats(module) for module in matrices}
    for module in matrices:
        scale = _choose_scale(job, module, weights, stats[module])
        if scale is not None:
            _apply_scale(job, module, weights, scale)
            stats[module] = _scaled(stats[module], scale)
    out: dict[str, Tensor] = {}
    for module in matrices:
        for source in job.stored(module, "weight").sources:
            out |= _pack(job, module, source, weights.pop(source), stats[module])
    return out | dict(_plain(weights))


def _choose_scale(job: LayerJob, module: str, weights: Mapping[str, Tensor], stats: ChannelStats) -> Tensor | None:
    """None where nothing takes the inverse of the scales, or nothing is to be scaled."""
    if job.method.choose_scale is None or not _has_producer(job, module):
        return None
    matrices = [weights[source] for source in job.stored(module, "weight").sources]
    scale = job.method.choose_scale(matrices, stats, job.settings)
    norm = _NORMS.get(module)
    if norm is not None:
        scale = torch.where(weights[job.stored(norm, "weight").sources[0]] == 0, 1.0, scale)
    return scale


def _has_producer(job: LayerJob, module: str) -> bool:
    """Whether something makes this input that can be divided; nothing between them may be bent, like a GELU."""
    if module in _NORMS:
        shared = job.spec.layer == "parallel_one_norm"
        return not shared and job.stored(_NORMS[module], "weight").rule.compute is None
    if module == "mlp.down" and job.spec.mlp != "gated":
        return False
    sources = job.stored(_ROWS_OF[module], "weight").sources
    return len(sources) > 1 and (module != "attention.output" or job.spec.queries_per_kv == 1)


def _apply_scale(job: LayerJob, module: str, weights: dict[str, Tensor], scale: Tensor) -> None:
    producer = _NORMS.get(module) or _ROWS_OF[module]
    for source in (*job.stored(module, "weight").sources, *_added(job, module, "reduce")):
        weights[source] = weights[source] * scale
    made_by = [job.stored(producer, leaf).sources[-1] for leaf in ("weight", "bias")]
    for name in (*made_by, *_added(job, producer, "expand")[-1:]):
        if name in weights:
            weights[name] = weights[name] / (scale[:, None] if weights[name].dim() == 2 else scale)


def _added(job: LayerJob, module: str, factor: str) -> tuple[str, ...]:
    """The stored factors of what is added to a matrix for tokens of pictures; none in most families."""
    added = f"added.{module.rsplit('.', 1)[-1]}.{factor}"
    known = any(rule.module.endswith(added) for rule in job.rules)
    return job.stored(added, "weight").sources if known else ()


def _scaled(stats: ChannelStats, scale: Tensor) -> ChannelStats:
    """Of the same input divided by the scales."""
    return ChannelStats(
        stats.mean_abs / scale, stats.largest_abs / scale, stats.second_moment / (scale[:, None] * scale)
    )


def _pack(job: LayerJob, module: str, source: str, weight: Tensor, stats: ChannelStats) -> dict[str, Tensor]:
    limit = None
    if job.method.clips and module != "attention.qkv":  # AWQ leaves queries and keys unclipped: scores are sensitive
        limit = search_clip(weight, stats.second_moment, job.settings)
    grid = fit_grid(weight, job.settings, limit=limit)
    if job.method.compensates:
        levels = quantise_compensated(weight, grid, job.settings, stats.second_moment)
    else:
        levels = quantise(weight, grid, job.settings)
    packed = StoredAwq.pack(levels, grid.scale, grid.zero)
    stem = source.removesuffix("weight")
    return {stem + leaf: tensor.cpu() for leaf, tensor in packed._asdict().items()}


def _plain(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Norms and biases, in the dtype of the scales."""
    for name, weight in weights.items():
        half = weight.half()
        if not bool(torch.isfinite(half).all()):
            raise CalibrationError(
                "a weight leaves the range of float16 once it is scaled",
                expected="values up to 65504",
                got=f"{float(weight.abs().max()):.3g}",
                where=name,
                next_step="quantise without scales (--method rtn)",
            )
        yield name, half.cpu()
