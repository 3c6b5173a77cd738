"""TwoPaths: the hidden states of all samples, through the model as it was and through the model as it becomes.

    exact     ──layer n, scaled───▶ exact       what every matrix was made for
    drifted   ──layer n, rounded──▶ drifted     what it will get; the rounding of layer n + 1 makes good what it can

Lesson: 4 (what is lost)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lmcourse.lite.held_tensors import held_weights, read_layer, unpacked
from lmcourse.lite.layer_inputs import LayerRunner
from lmcourse.lite.layer_path import LayerPath
from lmcourse.models import WeightStream

__all__ = ["TwoPaths"]


class TwoPaths:
    """enter a layer, ask and change it matrix by matrix, leave it."""

    exact: LayerPath
    drifted: LayerPath

    def __init__(self, weights: WeightStream, runner: LayerRunner, hidden: Tensor, *, drifts: bool) -> None:
        """hidden [tokens, features], what the first layer gets. drifts: whether layers get what rounded ones give."""
        self._weights, self._runner = weights, runner
        self._hidden, self._drifted = hidden, hidden.clone() if drifts else None
        self._number = 0
        self._held: dict[str, Tensor] = {}

    def at(self, number: int, hidden: Tensor) -> None:
        """Before layer `number`, which gets this in the model as it was."""
        self._number, self._hidden = number, hidden

    def enter(self, tensors: Mapping[str, Tensor]) -> None:
        """The layer's stored tensors, scaled and not yet rounded."""
        self._held = dict(tensors)
        self.exact = self.drifted = self._path(self._hidden)
        if self._drifted is not None:
            self.drifted = self._path(self._drifted)

    def change(self, module: str, packed: Mapping[str, Tensor]) -> None:
        """Put rounded weights into the drifted layer."""
        self._held |= self._plain(packed)
        weight = held_weights(self._weights, self._held).weight(f"layers.{self._number}.{module}.weight")
        self.drifted.layer.get_submodule(module).weight = torch.nn.Parameter(weight, requires_grad=False)

    def attend(self) -> None:
        """Let attention give what it gives, where no matrix has asked for it."""
        for _ in self.exact.inputs("attention.output"):
            pass

    def leave(self, tensors: Mapping[str, Tensor]) -> None:
        """The layer as it is stored: the drifted samples go through it."""
        if self._drifted is None:
            return
        self._held = self._plain(tensors)
        path = self._path(self._drifted)
        for _ in path.inputs("attention.output"):
            pass
        path.finish()

    def _path(self, hidden: Tensor) -> LayerPath:
        return LayerPath(read_layer(held_weights(self._weights, self._held), self._number), hidden, self._runner)

    def _plain(self, packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return unpacked(packed, self._weights.device)
