"""MLPs: the half of a layer that works on each token by itself; norm, up, activate, down.

MLPS names the kinds, ACTIVATIONS what stands between their matrices; a spec chooses one of each.

    gated    down · (act(gate · x) ∘ up · x)        gate and up share one matrix, so that x is read once
    plain    down · act(up · x)

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import silu

from lmcourse.kernels import (
    AnyNorm,
    Stream,
    geglu,
    geglu_tanh,
    gelu,
    gelu_tanh,
    norm_gate_up,
    norm_up,
    swiglu,
)
from lmcourse.layers.linear import Linear
from lmcourse.layers.moe import MoE
from lmcourse.layers.parallel import ALONE, Ranks
from lmcourse.spec import ModelSpec

__all__ = ["ACTIVATIONS", "MLP", "MLPS", "Activation", "PlainMLP", "make_mlp"]


class Activation(NamedTuple):
    """One activation, by itself and as a gate."""

    alone: Callable[[Tensor], Tensor]  # [num_tokens, features] → the same
    gating: Callable[[Tensor], Tensor]  # [num_tokens, 2 · features] → [num_tokens, features]


ACTIVATIONS: Mapping[str, Activation] = {
    "silu": Activation(silu, swiglu),
    "gelu": Activation(gelu, geglu),
    "gelu_tanh": Activation(gelu_tanh, geglu_tanh),
}


class MLP(nn.Module):
    """The gated kind: with RMS norm and SwiGLU two launches where few tokens make one launch of each line."""

    def __init__(self, spec: ModelSpec, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.activate = ACTIVATIONS[spec.activation].gating
        self.gate_up = Linear(spec.hidden, 2 * spec.intermediate, bias=spec.mlp_bias)
        self.down = Linear(spec.intermediate, spec.hidden, bias=spec.mlp_bias, ranks=ranks)

    def forward(self, stream: Stream, norm: AnyNorm) -> Stream:
        """The stream behind the attention half → the stream that the next layer starts from."""
        activated, residual = self.activated(stream, norm)
        return Stream(residual, self.down(activated))

    def activated(self, stream: Stream, norm: AnyNorm) -> tuple[Tensor, Tensor]:
        """(what the last matrix is given, residual)."""
        return norm_gate_up(stream, norm, self.gate_up.matrix, self.activate)


class PlainMLP(nn.Module):
    """The kind without a gate."""

    def __init__(self, spec: ModelSpec, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.activate = ACTIVATIONS[spec.activation].alone
        self.up = Linear(spec.hidden, spec.intermediate, bias=spec.mlp_bias)
        self.down = Linear(spec.intermediate, spec.hidden, bias=spec.mlp_bias, ranks=ranks)

    def forward(self, stream: Stream, norm: AnyNorm) -> Stream:
        """As MLP's."""
        activated, residual = self.activated(stream, norm)
        return Stream(residual, self.down(activated))

    def activated(self, stream: Stream, norm: AnyNorm) -> tuple[Tensor, Tensor]:
        """As MLP's."""
        return norm_up(stream, norm, self.up.matrix, self.activate)


MLPS: Mapping[str, Callable[[ModelSpec, Ranks], nn.Module]] = {"gated": MLP, "plain": PlainMLP}


def make_mlp(spec: ModelSpec, number: int, ranks: Ranks = ALONE) -> nn.Module:
    """The MLP of layer `number`, of the spec's kind, or the experts in its place."""
    if spec.experts is not None and number not in spec.experts.dense_layers:
        return MoE(spec, ranks)
    return MLPS[spec.mlp](spec, ranks)
