"""MLP: down · swiglu(gate_up · x); gate and up share one matrix, so that x is read once.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from torch import Tensor, nn

from lmcourse.kernels import swiglu
from lmcourse.layers.linear import Linear
from lmcourse.spec import ModelSpec

__all__ = ["MLP"]


class MLP(nn.Module):
    """The gated feed-forward half of a layer."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate_up = Linear(spec.hidden, 2 * spec.intermediate, bias=spec.mlp_bias)
        self.down = Linear(spec.intermediate, spec.hidden, bias=spec.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [num_tokens, hidden] → the same shape."""
        out: Tensor = self.down(swiglu(self.gate_up(x)))
        return out
