"""SAM's vision tower with DeepSeek-VL's way out of it: 4096 patches of a large picture, told in 576 features.

    [n, 3, 1024, 1024] → 64 x 64 patches → layers → neck → 96 x 96, enlarged → 48 x 48 → 24 x 24 features
                              │ after the first global layer            └ two convolutions in steps of two
                              └→ a neck of its own → the same → · alpha, added

Most layers attend within windows of 14 x 14 patches, a few across the whole picture. A score also depends on how far
apart two patches are: q · rows[Δrow] + q · columns[Δcolumn] (arXiv 2112.01526). As a table these biases would be as
large as all scores, 800 MB for one picture. But q has one value for each row and each column of keys, so they are
a longer dot product: q carries those values, and k says with a single 1 which row and which column it lies in.

Lesson: 6 (from pixels to features)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as fn

__all__ = ["Blend", "SamAttention", "SamLayer", "SamNeck", "SamSpec", "SamTower"]


@dataclass(frozen=True)
class SamSpec:
    """The shape of one tower; the defaults are ViT-B/16 at 1024 pixels, and 24 x 24 features."""

    hidden: int = 768
    intermediate: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    side: int = 1024  # pixels
    patch: int = 16
    window: int = 14  # patches
    global_layers: tuple[int, ...] = (2, 5, 8, 11)  # these see the whole picture; the first also has a neck
    channels: int = 256  # behind a neck; features have four times as many
    features_per_side: int = 24
    qkv_bias: bool = True
    norm_eps: float = 1e-6

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of the picture."""
        return self.side // self.patch


class SamTower(nn.Module):
    """Normalised pixels in, a coarse grid of features out."""

    def __init__(self, spec: SamSpec) -> None:
        super().__init__()
        self.spec, grid = spec, spec.patches_per_side
        self.patches = nn.Linear(3 * spec.patch**2, spec.hidden)
        self.positions = nn.Parameter(torch.empty(grid, grid, spec.hidden))
        spans = (grid if number in spec.global_layers else spec.window for number in range(spec.num_layers))
        self.layers = nn.ModuleList(SamLayer(spec, span) for span in spans)
        self.neck, self.early_neck = SamNeck(spec), SamNeck(spec)
        sizes = (spec.channels, 2 * spec.channels, 4 * spec.channels)
        self.halvings = nn.ModuleList(Blend(narrow, wide, step=2) for narrow, wide in pairwise(sizes))
        self.alpha = nn.Parameter(torch.empty(1))

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 3, side, side] → [n, features_per_side², 4 · channels], row by row."""
        size = self.spec.patch
        x: Tensor = self.patches(rearrange(pixels, "n c (h p) (w q) -> n h w (c p q)", p=size, q=size))
        x = x + self.positions
        early = x
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number == self.spec.global_layers[0]:
                early = x
        told = self._shrink(self.neck(x)) + self.alpha * self._shrink(self.early_neck(early))
        return rearrange(told, "n c h w -> n (h w) c")

    def _shrink(self, x: Tensor) -> Tensor:
        """[n, channels, grid, grid] → [n, 4 · channels, features_per_side, features_per_side]."""
        side = 4 * self.spec.features_per_side
        large = fn.interpolate(x.float(), size=(side, side), mode="bilinear", align_corners=False).to(x.dtype)
        for halve in self.halvings:
            large = halve(large)
        return large


class Blend(nn.Module):
    """A convolution of 3 x 3 with zeros around, as one matrix product: cuDNN's rounds float32 to ten bits."""

    def __init__(self, narrow: int, wide: int, step: int = 1) -> None:
        super().__init__()
        self.step = step
        self.weight = nn.Parameter(torch.empty(wide, narrow, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """[n, narrow, h, w] → [n, wide, ⌈h / step⌉, ⌈w / step⌉]."""
        around = fn.unfold(x, 3, padding=1, stride=self.step)  # [n, 9 · narrow, places]
        blended = self.weight.flatten(1) @ around
        return blended.view(*blended.shape[:2], -(-x.shape[-2] // self.step), -1)


class SamNeck(nn.Module):
    """Fewer channels, each then mixed with its neighbours; norms over the channels of a place."""

    def __init__(self, spec: SamSpec) -> None:
        super().__init__()
        self.narrow = nn.Linear(spec.hidden, spec.channels, bias=False)
        self.narrow_norm = nn.LayerNorm(spec.channels, 1e-6)
        self.blend = Blend(spec.channels, spec.channels)
        self.blend_norm = nn.LayerNorm(spec.channels, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[n, h, w, hidden] → [n, channels, h, w]."""
        narrow = rearrange(self.narrow_norm(self.narrow(x)), "n h w c -> n c h w")
        return self.blend_norm(self.blend(narrow).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class SamLayer(nn.Module):
    """norm → attention in windows → + → norm → MLP → +."""

    def __init__(self, spec: SamSpec, span: int) -> None:
        """span: patches along a window's side; the picture's own for a global layer."""
        super().__init__()
        self.span = span
        self.attention_norm = nn.LayerNorm(spec.hidden, spec.norm_eps)
        self.attention = SamAttention(spec, span)
        self.mlp_norm = nn.LayerNorm(spec.hidden, spec.norm_eps)
        self.up = nn.Linear(spec.hidden, spec.intermediate)
        self.down = nn.Linear(spec.intermediate, spec.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[n, h, w, hidden] → the same shape."""
        x = x + self._attend(self.attention_norm(x))
        mlp: Tensor = self.down(fn.gelu(self.up(self.mlp_norm(x))))
        return x + mlp

    def _attend(self, x: Tensor) -> Tensor:
        """Window by window. At the right and bottom they are filled up with zeros, which take part like patches."""
        n, height, width, _ = x.shape
        down, across = -height % self.span, -width % self.span
        windows = rearrange(
            fn.pad(x, (0, 0, 0, across, 0, down)), "n (a h) (b w) c -> (n a b) h w c", h=self.span, w=self.span
        )
        across_count = (width + across) // self.span
        whole: Tensor = rearrange(self.attention(windows), "(n a b) h w c -> n (a h) (b w) c", n=n, b=across_count)
        return whole[:, :height, :width]


class SamAttention(nn.Module):
    """Every patch of a window sees every other, with a bias for how many rows and columns lie between them."""

    def __init__(self, spec: SamSpec, span: int) -> None:
        super().__init__()
        self.num_heads, self.span = spec.num_heads, span
        head_dim = spec.hidden // spec.num_heads
        self.qkv = nn.Linear(spec.hidden, 3 * spec.hidden, bias=spec.qkv_bias)
        self.output = nn.Linear(spec.hidden, spec.hidden)
        self.rows = nn.Parameter(torch.empty(2 * span - 1, head_dim))  # by row of q - row of k + span - 1
        self.columns = nn.Parameter(torch.empty(2 * span - 1, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """[windows, span, span, hidden] → the same shape."""
        span = self.span
        q, k, v = rearrange(self.qkv(x), "n h w (part m d) -> part n m h w d", part=3, m=self.num_heads)
        distances = torch.arange(span, device=x.device)[:, None] - torch.arange(span, device=x.device) + span - 1
        to_rows = torch.einsum("nmhwd,hkd->nmhwk", q, self.rows[distances])
        to_columns = torch.einsum("nmhwd,wkd->nmhwk", q, self.columns[distances])
        long_q = torch.cat([q * q.shape[-1] ** -0.5, to_rows, to_columns], dim=-1).flatten(2, 3)
        ones = torch.eye(span, dtype=x.dtype, device=x.device)
        lies_in = torch.cat([ones.repeat_interleave(span, dim=0), ones.repeat(span, 1)], dim=-1)
        long_k = torch.cat([k.flatten(2, 3), lies_in.expand(*k.shape[:2], -1, -1)], dim=-1)
        long_v = fn.pad(v.flatten(2, 3), (0, 2 * span))  # fast kernels want heads of one width
        attended = fn.scaled_dot_product_attention(long_q, long_k, long_v, scale=1.0)[..., : q.shape[-1]]
        return self.output(rearrange(attended, "n m (h w) d -> n h w (m d)", h=span))  # type: ignore[no-any-return]
