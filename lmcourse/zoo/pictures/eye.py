"""The trainable form of tiny-llava's eye: CLIP's vision transformer and LLaVA's projector.

    pixels [n, 3, 128, 128] ─ 64 patches of 16 × 16, one linear map ─→ + one class token + places [n, 65, width]
    ─ layers: all tokens see each other ─→ features of the 64 patches ─ two linear maps ─→ [n * 64, hidden]

Everything but attention is blind to which picture a token belongs to, so layers work on a flat row of tokens.
Lesson: 6 (a model that sees)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmcourse.zoo.pictures.sizes import EyeSizes

__all__ = ["MEAN", "STD", "Eye"]

# CLIP's own mean and deviation of the colours red, green, blue.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class _Layer(nn.Module):
    def __init__(self, sizes: EyeSizes) -> None:
        super().__init__()
        width = sizes.width
        self.layer_norm1 = nn.LayerNorm(width, eps=sizes.norm_eps)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.layer_norm2 = nn.LayerNorm(width, eps=sizes.norm_eps)
        self.fc1, self.fc2 = nn.Linear(width, sizes.intermediate), nn.Linear(sizes.intermediate, width)

    def before_attention(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [tokens, width] → q, k, v of the same shape."""
        normed = self.layer_norm1(x)
        return self.q_proj(normed), self.k_proj(normed), self.v_proj(normed)

    def after_attention(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.out_proj(mixed)
        wide = self.fc1(self.layer_norm2(x))
        out: Tensor = x + self.fc2(wide * torch.sigmoid(1.702 * wide))
        return out


_Before = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
_After = Callable[[Tensor, Tensor], Tensor]


class Eye(nn.Module):
    """Pixels in, one vector of the language model's width per patch out."""

    def __init__(self, sizes: EyeSizes, *, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.sizes = sizes
        self.patch_embedding = nn.Linear(3 * sizes.patch * sizes.patch, sizes.width, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(sizes.width))
        self.position_embedding = nn.Parameter(torch.zeros(sizes.patches + 1, sizes.width))
        self.pre_layrnorm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.num_layers))
        self.linear_1, self.linear_2 = nn.Linear(sizes.width, hidden), nn.Linear(hidden, hidden)
        self.mean, self.std = (nn.Buffer(torch.tensor(row).view(3, 1, 1), persistent=False) for row in (MEAN, STD))
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                shrink = (2 * sizes.num_layers) ** -0.5 if name.endswith(("out_proj.weight", "fc2.weight")) else 1.0
                nn.init.normal_(weight, std=0.02 * shrink, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        layers = [layer for layer in self.layers if isinstance(layer, _Layer)]
        self._plain: list[tuple[_Before, _After]] = [(one.before_attention, one.after_attention) for one in layers]
        self._compiled = self._plain

    def compile_halves(self) -> None:
        """Lets `forward` run compiled halves of the layers in training; elsewhere the number of pictures varies."""
        self._compiled = [
            (torch.compile(before, dynamic=False), torch.compile(after, dynamic=False)) for before, after in self._plain
        ]

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels of 0 to 255 [n, 3, side, side] → [n * patches, hidden]."""
        n, patch = pixels.shape[0], self.sizes.patch
        seen = (pixels / 255 - self.mean) / self.std
        across = self.sizes.side // patch
        cut = seen.view(n, 3, across, patch, across, patch).permute(0, 2, 4, 1, 3, 5).reshape(n, across * across, -1)
        first = self.class_embedding.expand(n, 1, -1)
        x = torch.cat([first, self.patch_embedding(cut).to(first.dtype)], dim=1) + self.position_embedding
        tokens = x.shape[1]
        x = self.pre_layrnorm(x).view(n * tokens, -1)
        for before, after in self._compiled if self.training else self._plain:
            q, k, v = (part.view(n, tokens, self.sizes.num_heads, -1).transpose(1, 2) for part in before(x))
            with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
                mixed = F.scaled_dot_product_attention(q, k, v)
            x = after(x, mixed.transpose(1, 2).reshape(n * tokens, -1))
        patches = x.view(n, tokens, -1)[:, 1:].reshape(n * (tokens - 1), -1)
        out: Tensor = self.linear_2(F.gelu(self.linear_1(patches)))
        return out
