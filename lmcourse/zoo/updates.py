"""One update of the weights: clipped gradients, orthogonal momentum for the matrices, AdamW for everything else.

    matrix    momentum M ── five Newton–Schulz steps ──→ U Vᵀ of M = U S Vᵀ ── rate · 0.2 · √longer side ──→ weight
    others    AdamW (embeddings, output, norms)

Orthogonal updates move every direction of a matrix equally (the Muon optimizer: Jordan et al. 2024; the scale that lets
both halves share one rate: Liu et al. 2025). On a GPU the whole update is one CUDA graph, checked once against a plain
run before it is trusted. Gradients are zero afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["Updates", "orthogonal"]

_MOMENTUM = 0.95
_DECAY = 0.1
_LARGEST_NORM = 1.0
_BETAS = (0.9, 0.95)
_PLAIN_STEPS = 5
_TRUSTED_DIFFERENCE = 1e-2


def orthogonal(matrices: Tensor) -> Tensor:
    """[count, rows, columns] → the same with all singular values near 1 (0.7 to 1.2), computed in bfloat16."""
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = (matrices if wide else matrices.mT).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * (square @ square)) @ x
    result: Tensor = (x if wide else x.mT).to(matrices.dtype)
    return result


class _Matrices:
    """Weights of one shape, their momentum in one tensor [count, rows, columns]."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self.weights: list[Tensor] = list(weights)
        self.momentum = torch.zeros(len(weights), *weights[0].shape, device=weights[0].device)
        self.scale = 0.2 * max(weights[0].shape) ** 0.5

    def step(self, rate: Tensor) -> None:
        gradients = torch.stack([weight.grad for weight in self.weights if weight.grad is not None])
        self.momentum.lerp_(gradients, 1 - _MOMENTUM)
        change = orthogonal(gradients.lerp(self.momentum, _MOMENTUM)) * (-self.scale * rate)
        torch._foreach_mul_(self.weights, 1 - _DECAY * rate)
        torch._foreach_add_(self.weights, list(change.unbind()))


class _Others:
    """AdamW without decay for weights of any shapes; the number of steps lives on the device."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self.weights: list[Tensor] = list(weights)
        self.means = [torch.zeros_like(weight) for weight in weights]
        self.squares = [torch.zeros_like(weight) for weight in weights]
        self.steps = torch.zeros((), device=weights[0].device)

    def step(self, rate: Tensor) -> None:
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        self.steps += 1
        torch._foreach_lerp_(self.means, gradients, 1 - _BETAS[0])
        torch._foreach_mul_(self.squares, _BETAS[1])
        torch._foreach_addcmul_(self.squares, gradients, gradients, 1 - _BETAS[1])
        sizes = torch._foreach_sqrt(self.squares)
        torch._foreach_div_(sizes, (1 - _BETAS[1] ** self.steps).sqrt())
        torch._foreach_add_(sizes, 1e-8)
        changes = torch._foreach_div(self.means, sizes)
        torch._foreach_mul_(changes, -rate / (1 - _BETAS[0] ** self.steps))
        torch._foreach_add_(self.weights, changes)


class Updates:
    """`step(rate)` changes the model's weights by their gradients and clears these."""

    def __init__(self, model: nn.Module, *, graphs: bool, log: Callable[[str], None]) -> None:
        self.parameters = list(model.parameters())
        device = self.parameters[0].device
        self.rate = torch.zeros((), device=device)
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
        others = []
        for name, parameter in model.named_parameters():
            if ".layers." in name and parameter.ndim == 2:
                by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            else:
                others.append(parameter)
        self.matrices = [_Matrices(weights) for weights in by_shape.values()]
        self.others = _Others(others)
        self.log, self.graphs = log, graphs
        self.graph: torch.cuda.CUDAGraph | None = None
        self.steps = 0

    def step(self, rate: float) -> None:
        """One update at a learning rate."""
        self.rate.fill_(rate)
        self.steps += 1
        if self.graphs and self.steps == _PLAIN_STEPS:
            self._capture()
        elif self.graph is None:
            self._plain()
        else:
            self.graph.replay()

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    @torch.no_grad()
    def _plain(self) -> None:
        gradients = self._gradients()
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        torch._foreach_mul_(gradients, (_LARGEST_NORM / (norm + 1e-6)).clamp(max=1.0))
        for group in self.matrices:
            group.step(self.rate)
        self.others.step(self.rate)
        torch._foreach_zero_(gradients)

    def _state(self) -> list[Tensor]:
        """Everything that an update changes."""
        moments = [*self.others.means, *self.others.squares, self.others.steps, *(m.momentum for m in self.matrices)]
        return [*(p.data for p in self.parameters), *moments, *self._gradients()]

    @torch.no_grad()
    def _capture(self) -> None:
        """Makes one update and records it; on any failure the updates stay plain."""
        start = [part.clone() for part in self._state()]
        self._plain()
        expected = [part.clone() for part in self._state()]
        try:
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._plain()
            torch._foreach_copy_(self._state(), start)
            graph.replay()
            weights = zip(self.parameters, expected, start, strict=False)  # the state begins with the weights
            errors = [((got - want).square().sum(), (want - old).square().sum()) for got, want, old in weights]
            wrong, size = (float(torch.stack(parts).sum()) for parts in zip(*errors, strict=True))
            if not wrong <= _TRUSTED_DIFFERENCE**2 * size:
                raise RuntimeError(f"the graph of the update disagrees: {wrong} of {size}")
            self.graph = graph
        except RuntimeError as error:
            self.log(f"no CUDA graph for updates: {error}")
            torch._foreach_copy_(self._state(), expected)
