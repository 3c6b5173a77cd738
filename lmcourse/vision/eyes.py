"""Eyes: what every model's have, whatever tower is behind them: pixels as the tower was trained to see them.

Lesson: 6 (from pixels to features)
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from lmcourse.vision.tiles import Cutting

__all__ = ["Eyes"]


class Eyes(nn.Module):
    """uint8 tiles [tiles, 3, side, side] in, features [tiles · features of a tile, hidden] out."""

    def __init__(self, cutting: Cutting, hidden: int, placeholder_id: int) -> None:
        """hidden: features of the language model. placeholder_id: the token id that stands where features go."""
        super().__init__()
        self.cutting, self.hidden, self.placeholder_id = cutting, hidden, placeholder_id
        self.mean, self.std = self._constants(torch.device("cpu"))

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each colour [3, 1, 1], where a recorded pass can find them."""
        means, deviations = self.cutting.mean, self.cutting.std
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (means, deviations))
        return mean, std

    @property
    def like(self) -> Tensor:
        """A weight of the tower: of the dtype and on the device of all of them."""
        raise NotImplementedError

    def settle(self) -> Self:
        """All weights are there: bring the constants to their device."""
        self.mean, self.std = self._constants(self.like.device)
        return self.eval()

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 → the tower's dtype, each colour with the mean and deviation that the tower was trained with."""
        return ((pixels.float() / 255 - self.mean) / self.std).to(self.like.dtype)
