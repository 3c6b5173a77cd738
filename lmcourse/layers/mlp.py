"""MLP: norm, then down · swiglu(gate_up · x); gate and up share one matrix, so that x is read once.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from torch import nn

from lmcourse.kernels import Norm, Stream, norm_gate_up
from lmcourse.layers.linear import Linear
from lmcourse.spec import ModelSpec

__all__ = ["MLP"]


class MLP(nn.Module):
    """The gated feed-forward half of a layer: two launches where few tokens make one launch of each line."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate_up = Linear(spec.hidden, 2 * spec.intermediate, bias=spec.mlp_bias)
        self.down = Linear(spec.intermediate, spec.hidden, bias=spec.mlp_bias)

    def forward(self, stream: Stream, norm: Norm) -> Stream:
        """The stream behind the attention half → the stream that the next layer starts from."""
        activated, residual = norm_gate_up(stream, norm, self.gate_up.matrix)
        return Stream(residual, self.down(activated))
