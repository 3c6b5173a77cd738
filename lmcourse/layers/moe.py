"""MoE: a router, and many small MLPs of which each token takes a few.

    residual stream ─ norm ─┬─ router ─ the largest logits ─ which experts, and how much of each
                            └─ chosen and shared experts ─ parts, to be added to the stream

All experts share two stacked matrices. What every token takes besides (Qwen1.5-MoE, DeepSeek-MoE) is cut into experts
of the common width, stored last: an MLP is a sum over its intermediate features, so the pieces add up to the whole.

Lesson: 8 (a mixture of experts)
"""

from __future__ import annotations

import torch
from torch import nn

from lmcourse.kernels import AnyNorm, Stream, add_norm, project, route, run_experts
from lmcourse.layers.linear import Linear
from lmcourse.layers.parallel import ALONE, Ranks
from lmcourse.quant import PLAIN
from lmcourse.spec import ModelSpec

__all__ = ["MoE", "StackedLinear"]


class StackedLinear(Linear):
    """The matrices of all experts, one below the other."""

    def arrange(self) -> None:
        """Plain rows stay as they are, since a step takes those of a few experts; packed ones can be cut, too."""
        if self.weight_format is not PLAIN:
            super().arrange()


class MoE(nn.Module):
    """In the place of an MLP, with its interface."""

    def __init__(self, spec: ModelSpec, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.ranks = ranks
        assert spec.experts is not None, "a layer without experts has an MLP"
        self.experts = experts = spec.experts
        self.router = Linear(spec.hidden, experts.count + experts.shared_gate)
        self.experts_gate_up = StackedLinear(spec.hidden, experts.total * 2 * experts.intermediate)
        self.experts_down = StackedLinear(experts.intermediate, experts.total * spec.hidden)

    def forward(self, stream: Stream, norm: AnyNorm) -> Stream:
        """The stream behind the attention half → the stream that the next layer starts from."""
        normed, residual = add_norm(stream, norm)
        routing = route(project(normed, self.router.matrix, torch.float32), self.experts)
        parts = run_experts(normed, self.experts_gate_up.matrix, self.experts_down.matrix, routing)
        return Stream(residual, self.ranks.add_up(parts))

    def extra_repr(self) -> str:
        kept = self.experts
        return f"{kept.chosen} of {kept.count} experts, {kept.num_shared} shared, {kept.intermediate} wide"
