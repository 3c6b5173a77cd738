"""What the trainers minimise, and how large their steps are."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from lmcourse.zoo.batches import IGNORED

__all__ = ["learned_loss", "learning_rate"]


def learning_rate(progress: float, peak: float) -> float:
    """Warm-up over the first hundredth, a fifth of the run at the peak, then a straight line to nothing."""
    return peak * min(1.0, 0.02 + progress / 0.01, max(0.0, 1 - progress) / 0.8)


def learned_loss(hidden: Tensor, head: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of the learned tokens; a batch with few of them weighs less."""
    logits = F.linear(hidden[positions], head).float()
    total = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=targets.numel() // 8)
