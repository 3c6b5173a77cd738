"""Qwen-VL: a picture as 256 tokens between <img> and </img>, whatever its size (arXiv 2308.12966 §2).

    picture ─ squeezed into 448 x 448 ─→ ViT-bigG ─→ 32 x 32 ─→ resampler ─→ 16 x 16 ─→ norm, map ─→ 256 rows

The tower is CLIP's without a class token, and stores the query, key and value of a head beside each other. It and the
resampler have positions for 16 x 16 places, of which those between are interpolated (bicubic) once, at loading. In the
published program the bytes of the picture's path stand where its features will, padded to 256; what the features
replace is of no consequence, so here it is <imgpad> throughout.

    config.json: visual {image_size, patch_size, width, layers, heads, mlp_ratio, output_dim, image_start_id}

Lesson: 6 (from features to tokens), 8 (what differs between families)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from lmcourse.models import TensorSource
from lmcourse.models.config_reader import ConfigReader, wrong_value
from lmcourse.vision.clip import ClipLayer, ClipSpec
from lmcourse.vision.eyes import Eyes
from lmcourse.vision.resampler import Resampler, ResamplerSpec
from lmcourse.vision.tiles import Cutting
from lmcourse.vision.weights import ComputedTensors, Names, stretch_grid

__all__ = ["QwenVlEyes", "QwenVlSpec", "read_qwen_vl", "stored_qwen_vl"]

_EPS, _HEAD_DIM = 1e-6, 128  # of all norms; of the resampler's heads
_VISUAL = "transformer.visual."
_POSITIONS, _PROJECTION = _VISUAL + "positional_embedding", _VISUAL + "proj"
_PLACES = _VISUAL + "attn_pool.pos_embed"
_KEY_POSITIONS = _PLACES + " for keys"  # not stored
_TENSORS = {
    "tower.patches.weight": "conv1.weight",
    "tower.positions": "positional_embedding",
    "resampler.queries": "attn_pool.query",
    "resampler.query_positions": "attn_pool.pos_embed",
    "resampler.key_positions": "attn_pool.pos_embed for keys",
    "resampler.reduce.weight": "attn_pool.kv_proj.weight",
    "projection.weight": "proj",
}
_MODULES = {  # "weight" and "bias" are added on both sides
    "tower.norm": "ln_pre.",
    "resampler.query_norm": "attn_pool.ln_q.",
    "resampler.seen_norm": "attn_pool.ln_kv.",
    "resampler.qkv": "attn_pool.attn.in_proj_",
    "resampler.output": "attn_pool.attn.out_proj.",
    "norm": "ln_post.",
}
_LAYER = {
    "attention_norm": "ln_1",
    "qkv": "attn.in_proj",
    "output": "attn.out_proj",
    "mlp_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


@dataclass(frozen=True)
class QwenVlSpec:
    """Everything about its eyes that is not a weight."""

    tower: ClipSpec
    resampler: ResamplerSpec
    placeholder_id: int

    @property
    def cutting(self) -> Cutting:
        """The whole picture as one tile, out of shape, as so many features as there are queries."""
        patches, queries = self.tower.patches_per_side, self.resampler.num_queries
        return Cutting(self.tower.side, patches, way="crop", square=True, queries=queries)


def read_qwen_vl(config: Mapping[str, Any], *, hidden: int, vocab: int) -> QwenVlSpec:
    """hidden and vocab: of the language model. CheckpointError for what cannot be."""
    stated = ConfigReader(config).table("visual")
    reader = ConfigReader({f"visual.{key}": value for key, value in stated.items()})  # errors name keys so
    width, heads, layers = (reader.count(f"visual.{name}") for name in ("width", "heads", "layers"))
    side, patch = reader.count("visual.image_size"), reader.count("visual.patch_size")
    queries, output = reader.count("visual.n_queries", default=256), reader.count("visual.output_dim")
    pool_heads = max(1, output // _HEAD_DIM)
    for key, fits, expected in (
        ("visual.image_size", side % patch == 0, f"a multiple of patch_size, {patch}"),
        ("visual.heads", width % heads == 0, f"a divisor of width, {width}"),
        ("visual.n_queries", isqrt(queries) ** 2 == queries, "a square number"),
        ("visual.output_dim", output == hidden, f"hidden_size, {hidden}"),
        ("visual.output_dim", output % pool_heads == 0, f"a width that {pool_heads} heads share"),
    ):
        if not fits:
            raise wrong_value(key, expected, reader.get(key))
    intermediate = int(width * reader.number("visual.mlp_ratio", default=4.0))
    tower = ClipSpec(width, intermediate, layers, heads, side, patch, "gelu", _EPS)
    resampler = ResamplerSpec(output, pool_heads, queries, width, tower.patches_per_tile, _EPS)
    placeholder = reader.whole("visual.image_start_id") + 2  # <img>, </img>, <imgpad>
    return QwenVlSpec(tower, resampler, placeholder if 2 < placeholder < vocab else 0)


class _Tower(nn.Module):
    """Normalised pixels in, features of patches out."""

    def __init__(self, spec: ClipSpec) -> None:
        super().__init__()
        self.spec = spec
        self.patches = nn.Linear(3 * spec.patch**2, spec.hidden, bias=False)
        self.positions = nn.Parameter(torch.empty(spec.patches_per_tile, spec.hidden))
        self.norm = nn.LayerNorm(spec.hidden, spec.norm_eps)
        self.layers = nn.ModuleList(ClipLayer(spec) for _ in range(spec.num_layers))

    def forward(self, pixels: Tensor) -> Tensor:
        """[pictures, 3, side, side] → [pictures, patches, hidden], row by row."""
        size = self.spec.patch
        cut = rearrange(pixels, "n c (h p) (w q) -> n (h w) (c p q)", p=size, q=size)
        x: Tensor = self.norm(self.patches(cut) + self.positions)
        for layer in self.layers:
            x = layer(x)
        return x


class QwenVlEyes(Eyes):
    """Tower, resampler, norm and map, with their weights."""

    def __init__(self, spec: QwenVlSpec) -> None:
        super().__init__(spec.cutting, spec.resampler.hidden, spec.placeholder_id)
        self.spec, hidden = spec, spec.resampler.hidden
        self.tower = _Tower(spec.tower)
        self.resampler = Resampler(spec.resampler)
        self.norm = nn.LayerNorm(hidden, _EPS)
        self.projection = nn.Linear(hidden, hidden, bias=False)

    @property
    def like(self) -> Tensor:
        """A weight of the tower."""
        return self.tower.positions

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [pictures, 3, side, side] → [pictures · queries, hidden]."""
        taken = self.resampler(self.tower(self.normalise(pixels)))
        return self.projection(self.norm(taken)).flatten(0, 1)  # type: ignore[no-any-return]


def stored_qwen_vl(spec: QwenVlSpec, source: TensorSource) -> tuple[Names, TensorSource]:
    """The stored names of QwenVlEyes' parameters, and what to read them from."""
    names: Names = {ours: (_VISUAL + stored,) for ours, stored in _TENSORS.items()}
    modules = dict(_MODULES)
    for n in range(spec.tower.num_layers):
        modules |= {f"tower.layers.{n}.{ours}": f"transformer.resblocks.{n}.{part}." for ours, part in _LAYER.items()}
    for ours, stored in modules.items():
        names |= {f"{ours}.{leaf}": (_VISUAL + stored + leaf,) for leaf in ("weight", "bias")}
    return names, ComputedTensors(source, dict(_computed(spec, source)))


def _computed(spec: QwenVlSpec, source: TensorSource) -> Iterator[tuple[str, Callable[[TensorSource], Tensor]]]:
    """What is stored otherwise than the eyes want it."""
    tower, side = spec.tower, spec.tower.patches_per_side

    def by_role(name: str) -> Callable[[TensorSource], Tensor]:
        """[q k v | q k v | …], head by head → [Q | K | V]."""
        return lambda stored: rearrange(
            stored.read(name), "(h part d) ... -> (part h d) ...", part=3, h=tower.num_heads
        )

    computed: dict[str, tuple[str, Callable[[TensorSource], Tensor]]] = {
        _POSITIONS: (_POSITIONS, lambda stored: stretch_grid(stored.read(_POSITIONS).float(), side)),
        _KEY_POSITIONS: (_PLACES, lambda stored: stretch_grid(stored.read(_PLACES).float(), side)),
        _PROJECTION: (_PROJECTION, lambda stored: stored.read(_PROJECTION).T),
    }
    for n in range(tower.num_layers):
        for leaf in ("weight", "bias"):
            name = f"{_VISUAL}transformer.resblocks.{n}.attn.in_proj.{leaf}"
            computed[name] = (name, by_role(name))
    for name, (stored_name, compute) in computed.items():
        if stored_name in source.tensors:  # what is missing is missed under its own name
            yield name, compute
