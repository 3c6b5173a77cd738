"""EVA-CLIP's vision tower: CLIP's layers, reached another way (arXiv 2211.07636; the ViT-g of BLIP-2, 2301.12597 §3).

    [pictures, 3, side, side] → patches, with a bias → a class token before them, + positions → layers → features

Nothing is normed before the first layer or behind the last. Keys have no bias: softmax would take one away again. Of
the forty layers that were trained 39 are published with BLIP-2, which wants what the last layer but one says.

Lesson: 6 (from pixels to features)
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from lmcourse.models import TensorSource
from lmcourse.vision.clip import ClipLayer, ClipSpec
from lmcourse.vision.weights import count_layers, stored_shape

__all__ = ["EVA_CLIP_G", "EvaTower", "eva_names", "eva_sizes"]

EVA_CLIP_G = ClipSpec(
    hidden=1408,
    intermediate=6144,
    num_layers=39,
    num_heads=16,
    side=224,
    patch=14,
    activation="gelu",
    norm_eps=1e-6,
)
_HEAD_DIM = 88  # of every published EVA-CLIP-g
_LAYER: dict[str, tuple[str, ...]] = {
    "attention_norm.weight": ("norm1.weight",),
    "attention_norm.bias": ("norm1.bias",),
    "qkv.weight": ("attn.qkv.weight",),
    "qkv.bias": ("attn.q_bias", "attn.k_bias", "attn.v_bias"),
    "output.weight": ("attn.proj.weight",),
    "output.bias": ("attn.proj.bias",),
    "mlp_norm.weight": ("norm2.weight",),
    "mlp_norm.bias": ("norm2.bias",),
    "up.weight": ("mlp.fc1.weight",),
    "up.bias": ("mlp.fc1.bias",),
    "down.weight": ("mlp.fc2.weight",),
    "down.bias": ("mlp.fc2.bias",),
}


class EvaTower(nn.Module):
    """Normalised pixels in, features of the class token and the patches out."""

    def __init__(self, spec: ClipSpec) -> None:
        super().__init__()
        self.spec = spec
        self.class_token = nn.Parameter(torch.empty(spec.hidden))
        self.patches = nn.Linear(3 * spec.patch**2, spec.hidden)
        self.positions = nn.Parameter(torch.empty(spec.patches_per_tile + 1, spec.hidden))
        self.layers = nn.ModuleList(ClipLayer(spec) for _ in range(spec.num_layers))

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: [pictures, 3, side, side] → [pictures, 1 + patches, hidden]."""
        size = self.spec.patch
        cut = rearrange(pixels, "n c (h p) (w q) -> n (h w) (c p q)", p=size, q=size)
        x = torch.cat([self.class_token.expand(len(cut), 1, -1), self.patches(cut)], dim=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return x


def eva_names(prefix: str, num_layers: int) -> dict[str, tuple[str, ...]]:
    """Parameter of an EvaTower → the stored tensors whose rows it is made of; k_bias is not stored, but zeros."""
    names: dict[str, tuple[str, ...]] = {
        "class_token": ("cls_token",),
        "patches.weight": ("patch_embed.proj.weight",),
        "patches.bias": ("patch_embed.proj.bias",),
        "positions": ("pos_embed",),
    }
    for n in range(num_layers):
        names |= {
            f"layers.{n}.{ours}": tuple(f"blocks.{n}.{part}" for part in stored) for ours, stored in _LAYER.items()
        }
    return {ours: tuple(prefix + part for part in stored) for ours, stored in names.items()}


def eva_sizes(source: TensorSource, prefix: str) -> ClipSpec:
    """The tower's shape, read off its tensors, since no config has it."""
    hidden, _, patch, _ = stored_shape(source, prefix + "patch_embed.proj.weight", 4)
    positions = stored_shape(source, prefix + "pos_embed", 3)[1]
    return ClipSpec(
        hidden=hidden,
        intermediate=stored_shape(source, prefix + "blocks.0.mlp.fc1.weight", 2)[0],
        num_layers=count_layers(source, prefix + "blocks."),
        num_heads=max(1, hidden // _HEAD_DIM),
        side=patch * max(1, int((positions - 1) ** 0.5)),
        patch=patch,
        activation=EVA_CLIP_G.activation,
        norm_eps=EVA_CLIP_G.norm_eps,
    )
