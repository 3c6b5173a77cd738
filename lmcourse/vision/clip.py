"""CLIP's vision tower: a picture cut into patches, and a transformer in which every patch sees every other.

    [tiles, 3, side, side] → patches [tiles, n, 3·p·p] → + a class token, + positions → norm → layers → features

It differs from the decoder in all that reading a picture at once allows: no cache, no mask, no order of generation,
positions that are learned. LLaVA takes what the last layer but one says about the patches (arXiv 2304.08485 §4.1).
The stored tensors are named in weights.py.

Lesson: 6 (from pixels to features)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as fn

__all__ = ["ACTIVATIONS", "ClipLayer", "ClipSpec", "ClipTower"]


def _quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


def _tanh_gelu(x: Tensor) -> Tensor:
    return fn.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": _quick_gelu,
    "gelu": fn.gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
}


@dataclass(frozen=True)
class ClipSpec:
    """The shape of one tower; the defaults are ViT-L/14 at 336 pixels."""

    hidden: int = 1024
    intermediate: int = 4096
    num_layers: int = 24
    num_heads: int = 16
    side: int = 336  # pixels of a tile
    patch: int = 14  # pixels of a patch
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a tile."""
        return self.side // self.patch

    @property
    def patches_per_tile(self) -> int:
        """Patches of a tile."""
        return self.patches_per_side**2


class ClipTower(nn.Module):
    """Normalised pixels in, features of patches out."""

    def __init__(self, spec: ClipSpec, num_layers: int) -> None:
        """num_layers: how many of the tower's layers are wanted; those behind them are not even loaded."""
        super().__init__()
        self.spec = spec
        self.class_token = nn.Parameter(torch.empty(spec.hidden))
        self.patches = nn.Linear(3 * spec.patch**2, spec.hidden, bias=False)
        self.positions = nn.Parameter(torch.empty(spec.patches_per_tile + 1, spec.hidden))
        self.norm = nn.LayerNorm(spec.hidden, spec.norm_eps)
        self.layers = nn.ModuleList(ClipLayer(spec) for _ in range(num_layers))

    def forward(self, pixels: Tensor, wanted: tuple[int, ...]) -> Tensor:
        """pixels: [tiles, 3, side, side] → [tiles, 1 + patches, hidden · len(wanted)], the class token first.

        wanted: after how many layers, each adding its hidden features.
        """
        size = self.spec.patch
        cut = rearrange(pixels, "n c (h p) (w q) -> n (h w) (c p q)", p=size, q=size)
        tokens = torch.cat([self.class_token.expand(len(cut), 1, -1), self.patches(cut)], dim=1)
        x = self.norm(tokens + self.positions)
        states = [x]
        for layer in self.layers:
            x = layer(x)
            states.append(x)
        return states[wanted[0]] if len(wanted) == 1 else torch.cat([states[n] for n in wanted], dim=-1)


class ClipLayer(nn.Module):
    """norm → attention → + → norm → MLP → +; all linear maps have biases."""

    def __init__(self, spec: ClipSpec) -> None:
        super().__init__()
        self.num_heads, self.activation = spec.num_heads, ACTIVATIONS[spec.activation]
        self.attention_norm = nn.LayerNorm(spec.hidden, spec.norm_eps)
        self.qkv = nn.Linear(spec.hidden, 3 * spec.hidden)
        self.output = nn.Linear(spec.hidden, spec.hidden)
        self.mlp_norm = nn.LayerNorm(spec.hidden, spec.norm_eps)
        self.up = nn.Linear(spec.hidden, spec.intermediate)
        self.down = nn.Linear(spec.intermediate, spec.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[tiles, tokens, hidden] → the same shape."""
        q, k, v = rearrange(
            self.qkv(self.attention_norm(x)), "n t (part h d) -> part n h t d", part=3, h=self.num_heads
        )
        attended = fn.scaled_dot_product_attention(q, k, v)
        x = x + self.output(rearrange(attended, "n h t d -> n t (h d)"))
        mlp: Tensor = self.down(self.activation(self.up(self.mlp_norm(x))))
        return x + mlp
