"""One layer of a checkpoint, made small: scales folded into what comes before, weights rounded, packed as AWQ stores.

    what makes the input        matrices that read it       folded into
    attention_norm              qkv                         the norm's weight
    V rows of qkv               output                      those rows (only where each query head has its own V)
    mlp_norm                    gate_up                     the norm's weight
    up rows of gate_up          down                        those rows

Scales and groups lie along input features, so rows may stay in whatever order the family stores them in. Rounding then
goes from the first matrix to the last; one that compensates asks, before each, what the rounded layer gives it. What is
added to a matrix for tokens of pictures stays in 16 bits: its first factor reads the same input, its second makes rows.

Lesson: 4 (AWQ from scratch)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmcourse.errors import CalibrationError
from lmcourse.lite.expert_quantise import Experts, quantise_experts
from lmcourse.lite.layer_inputs import LayerInputs, has_experts, matrix_names
from lmcourse.lite.layer_job import LayerJob, pack_compensated, pack_nearest, scaled_stats
from lmcourse.lite.layer_path import side_by_side
from lmcourse.lite.two_paths import TwoPaths
from lmcourse.quant import ChannelStats

__all__ = ["SmallLayer", "quantise_layer"]

_NORMS = {"attention.qkv": "attention_norm", "mlp.gate_up": "mlp_norm", "mlp.up": "mlp_norm",
          "mlp.experts_gate_up": "mlp_norm"}  # fmt: skip
_ROWS_OF = {"attention.output": "attention.qkv", "mlp.down": "mlp.gate_up"}  # the last source: v, or up
_ALSO_READ = {"mlp.experts_gate_up": "mlp.router"}  # stays in 16 bits, and must see the same input


@dataclass(frozen=True)
class SmallLayer:
    """A layer's stored tensors on the CPU, and the experts that too few tokens reached."""

    tensors: dict[str, Tensor]
    seldom: tuple[int, ...] = field(default=())


def quantise_layer(
    job: LayerJob, tensors: Mapping[str, Tensor], inputs: LayerInputs, paths: TwoPaths | None = None
) -> SmallLayer:
    """tensors: the layer's stored tensors by name, on the device that computes.

    paths: None only for a dense layer that is rounded without compensation. float32 arithmetic; CalibrationError if a
    scaled weight leaves float16's range.
    """
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    stats = _scale(job, weights, inputs)
    if paths is not None:
        paths.enter(weights)
    out: dict[str, Tensor] = {}
    for module in stats:
        if module != "mlp.experts_gate_up":
            out |= _round(job, module, weights, stats[module], paths)
    seldom: tuple[int, ...] = ()
    if has_experts(job.spec, job.number):
        assert paths is not None, "experts get the tokens that the layer sends them"
        packed, seldom = quantise_experts(job, Experts.of(job), weights, paths)
        out |= packed
    small = SmallLayer(out | dict(_plain(weights)), seldom)
    if paths is not None:
        paths.leave(small.tensors)
    return small


def _scale(job: LayerJob, weights: dict[str, Tensor], inputs: LayerInputs) -> dict[str, ChannelStats]:
    """Fold every module's scales into the weights; what the modules are given then."""
    stats = {module: inputs.stats(module) for module in matrix_names(job.spec, job.number)}
    for module in stats:
        scale = _choose_scale(job, module, weights, stats[module])
        if scale is not None:
            _apply_scale(job, module, weights, scale)
            stats[module] = scaled_stats(stats[module], scale)
    return stats


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
    clamped = module == "attention.output" and job.spec.clip_qkv is not None
    return len(sources) > 1 and not clamped and (module != "attention.output" or job.spec.queries_per_kv == 1)


def _apply_scale(job: LayerJob, module: str, weights: dict[str, Tensor], scale: Tensor) -> None:
    producer = _NORMS.get(module) or _ROWS_OF[module]
    routers = job.stored(_ALSO_READ[module], "weight").sources if module in _ALSO_READ else ()
    for source in (*job.stored(module, "weight").sources, *routers, *_added(job, module, "reduce")):
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


def _round(
    job: LayerJob, module: str, weights: dict[str, Tensor], stats: ChannelStats, paths: TwoPaths | None
) -> dict[str, Tensor]:
    """The packed tensors of a module's sources, which leave `weights`."""
    sources = job.stored(module, "weight").sources
    if paths is None or not job.method.compensates:
        clips = job.method.clips and module != "attention.qkv"  # AWQ leaves them: scores are sensitive
        return _merged(pack_nearest(job, name, weights.pop(name), stats if clips else None) for name in sources)
    moments = side_by_side(paths.exact, paths.drifted, module)
    out = pack_compensated(job, {name: weights.pop(name) for name in sources}, moments, clip=module != "attention.qkv")
    paths.change(module, out)
    return out


def _merged(parts: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor for part in parts for name, tensor in part.items()}


def _plain(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Norms, biases and routers, in the dtype of the scales."""
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
