"""SigLIP's vision tower: CLIP's layers without the class token, and what the last layer says of the patches.

    [n, 3, side, side] → patches (with biases) + positions → layers → norm → [n, patches, hidden]

It is trained with a sigmoid for each pair of a picture and a text (arXiv 2303.15343), not a softmax over a batch; its
pooling head belongs to that training and is left out. The stored tensors are named in deepseek_vl_weights.py.

Lesson: 6 (from pixels to features)
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from lmcourse.vision.clip import ClipLayer, ClipSpec

__all__ = ["SiglipTower"]


class SiglipTower(nn.Module):
    """Normalised pixels in, features of patches out."""

    def __init__(self, spec: ClipSpec) -> None:
        super().__init__()
        self.spec = spec
        self.patches = nn.Linear(3 * spec.patch**2, spec.hidden)
        self.positions = nn.Parameter(torch.empty(spec.patches_per_tile, spec.hidden))
        self.layers = nn.ModuleList(ClipLayer(spec) for _ in range(spec.num_layers))
        self.norm = nn.LayerNorm(spec.hidden, spec.norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 3, side, side] → [n, patches, hidden], row by row."""
        size = self.spec.patch
        x: Tensor = self.patches(rearrange(pixels, "n c (h p) (w q) -> n (h w) (c p q)", p=size, q=size))
        x = x + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)  # type: ignore[no-any-return]
