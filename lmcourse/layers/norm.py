"""Norms: the weight of a norm, applied to the residual stream and what was last added to it.

NORMS names the kinds; a spec chooses one for all its norms.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from lmcourse.kernels import AnyNorm, CentredNorm, Norm, Stream, add_norm
from lmcourse.layers.linear import empty_weight
from lmcourse.spec import ModelSpec

__all__ = ["NORMS", "AnyNormLayer", "LayerNorm", "RMSNorm", "make_norm"]


class AnyNormLayer(nn.Module):
    """What a layer asks of its norms."""

    weight: nn.Parameter
    eps: float

    def forward(self, stream: Stream) -> tuple[Tensor, Tensor]:
        """(normed, residual), both [num_tokens, features]; the residual now has the parts in it."""
        return add_norm(stream, self.norm)

    @property
    def norm(self) -> AnyNorm:
        """As the kernels take it."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


class RMSNorm(AnyNormLayer):
    """Scales each token's features to unit root mean square, then by a learned weight."""

    def __init__(self, features: int, eps: float) -> None:
        super().__init__()
        self.weight = empty_weight(features)
        self.eps = eps

    @property
    def norm(self) -> Norm:
        return Norm(self.weight, self.eps)


class LayerNorm(AnyNormLayer):
    """Takes the mean of each token's features away first; may add a bias at the end."""

    def __init__(self, features: int, eps: float, *, bias: bool) -> None:
        super().__init__()
        self.weight = empty_weight(features)
        self.bias = empty_weight(features) if bias else None
        self.eps = eps

    @property
    def norm(self) -> CentredNorm:
        return CentredNorm(self.weight, self.bias, self.eps)


NORMS: Mapping[str, Callable[[ModelSpec], AnyNormLayer]] = {
    "rms": lambda spec: RMSNorm(spec.hidden, spec.norm_eps),
    "layer": lambda spec: LayerNorm(spec.hidden, spec.norm_eps, bias=spec.norm_bias),
}


def make_norm(spec: ModelSpec) -> AnyNormLayer:
    """A norm over the hidden features, of the spec's kind."""
    return NORMS[spec.norm](spec)
