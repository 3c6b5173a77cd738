"""A layer's experts, made small one by one, each with the tokens that the router sends it.

    normed inputs ─ router ─┬─ tokens of expert 0 ─ gate, up ─ activated ─ down      scales of down: in up's rows
                            ├─ tokens of expert 1 ─ …
                            └─ all tokens ─ the shared expert

What all read, the norm's output, has one scale for all of them and the router (layer_quantise.py). An expert that
fewer than FEWEST_TOKENS calibration tokens reach says too little of its inputs: its weights are rounded to nearest,
and the model's config.json names it.

Lesson: 8 (a mixture of experts)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from lmcourse.kernels import project, route
from lmcourse.layers import MoE
from lmcourse.lite.held_tensors import unpacked
from lmcourse.lite.layer_job import LayerJob, pack_compensated, pack_nearest
from lmcourse.lite.layer_path import LayerPath
from lmcourse.lite.two_paths import TwoPaths
from lmcourse.quant import ChannelStats, InputMoments

__all__ = ["FEWEST_TOKENS", "Experts", "quantise_experts"]

FEWEST_TOKENS = 64


@dataclass(frozen=True)
class Experts:
    """Stored names: (gate, up, down) of each, the shared one last."""

    names: tuple[tuple[str, str, str], ...]
    count: int  # that the router chooses from

    @classmethod
    def of(cls, job: LayerJob) -> Experts:
        """Of a layer."""
        assert job.spec.experts is not None
        first, down = (job.stored(f"mlp.experts_{part}", "weight").sources for part in ("gate_up", "down"))
        return cls(tuple(zip(first[::2], first[1::2], down, strict=True)), job.spec.experts.count)


@dataclass(frozen=True)
class _Given:
    """What experts are given in one layer, on both paths, token by token."""

    exact: Tensor  # [tokens, hidden]
    drifted: Tensor
    chosen: Tensor  # int [tokens, experts per token]: where the drifted ones go

    def rows_of(self, expert: int, count: int) -> Tensor:
        """The tokens that reach an expert; the shared one, behind the others, sees all."""
        if expert >= count:
            return torch.arange(len(self.exact), device=self.exact.device)
        return (self.chosen == expert).any(1).nonzero()[:, 0]


@torch.inference_mode()
def quantise_experts(
    job: LayerJob, experts: Experts, weights: dict[str, Tensor], paths: TwoPaths
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """(packed tensors, the experts that too few tokens reached); their plain weights leave `weights`."""
    if not job.method.compensates:
        paths.attend()
    given = _gather(paths)
    out: dict[str, Tensor] = {}
    seldom = []
    for number, names in enumerate(experts.names):
        rows = given.rows_of(number, experts.count)
        own = {name: weights.pop(name) for name in names}
        if len(rows) < FEWEST_TOKENS and job.method.choose_scale is not None:
            seldom.append(number)
        if len(rows) < FEWEST_TOKENS or job.method.choose_scale is None:
            for name in names:
                out |= pack_nearest(job, name, own[name], None)
        else:
            out |= _quantise_expert(job, names, own, (given.exact[rows], given.drifted[rows]))
    return out, tuple(seldom)


def _gather(paths: TwoPaths) -> _Given:
    moe = paths.drifted.layer.mlp
    assert isinstance(moe, MoE)
    drifted = _whole(paths.drifted)
    exact = drifted if paths.exact is paths.drifted else _whole(paths.exact)
    routing = route(project(drifted, moe.router.matrix, torch.float32), moe.experts)
    return _Given(exact, drifted, routing.experts[:, : moe.experts.chosen])


def _whole(path: LayerPath) -> Tensor:
    return torch.cat(list(path.inputs("mlp.experts_gate_up")))


def _quantise_expert(
    job: LayerJob, names: tuple[str, str, str], own: dict[str, Tensor], inputs: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """inputs: this expert's tokens, exact and drifted."""
    exact, drifted = (part.float() for part in inputs)
    gate, up, down = names
    assert job.method.choose_scale is not None
    activated = _activated(exact, own[gate], own[up])
    scale = job.method.choose_scale([own[down]], _stats(activated), job.settings)
    own[down], own[up], activated = own[down] * scale, own[up] / scale[:, None], activated / scale
    out = _pack(job, {name: own[name] for name in (gate, up)}, exact, drifted)
    seen = activated
    if job.method.compensates:
        rounded = unpacked(out, drifted.device)
        seen = _activated(drifted, rounded[gate], rounded[up])
    return out | _pack(job, {down: own[down]}, activated, seen)


def _pack(job: LayerJob, matrices: Mapping[str, Tensor], exact: Tensor, drifted: Tensor) -> dict[str, Tensor]:
    """Matrices that read one input."""
    if not job.method.compensates:
        out: dict[str, Tensor] = {}
        for name, weight in matrices.items():
            out |= pack_nearest(job, name, weight, _stats(exact) if job.method.clips else None)
        return out
    count = len(drifted)
    moments = InputMoments(drifted.t() @ drifted / count, exact.t() @ drifted / count, count)
    return pack_compensated(job, matrices, moments, clip=True)


def _activated(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    return silu(x @ gate.t()) * (x @ up.t())


def _stats(x: Tensor) -> ChannelStats:
    return ChannelStats(x.abs().mean(0), x.abs().amax(0), x.t() @ x / len(x))
